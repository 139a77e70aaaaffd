"""`pull` of 500 MB from a web server on the loopback interface, against curl and sha256sum in turn
in the same run: bytes a second, both with the digest checked and the file on the disk.

Prints the medians and their ratio (aim: at least 0.9). Python's start and its imports are in it.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/pipeline/release")]

import releases
import servers

from crosscast.pipeline.release.document import RELEASE, Release

BLOCK = 1_000_000


def main() -> None:
    """Alternate both, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        digest = release(root / "served", given.megabytes)
        with servers.http_server(root / "served", root / "log.txt") as url:
            plain, ours = [], []
            for number in range(given.rounds):
                plain.append(by_curl(url, root, digest))
                ours.append(by_pull(url, root))
                print(f"round {number + 1}: curl {plain[-1]:.2f} s, pull {ours[-1]:.2f} s")
    speeds = [given.megabytes / statistics.median(seconds) for seconds in (plain, ours)]
    print(f"curl and sha256sum {speeds[0]:.0f} MB/s, pull {speeds[1]:.0f} MB/s")
    print(f"ratio {speeds[1] / speeds[0]:.2f} (aim: at least 0.9)")


def release(served: Path, megabytes: int) -> str:
    """A registry with a release of one file of random bytes; the file's sha256."""
    path = served / "m/1.0.0/onnx/model.onnx"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(BLOCK))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    entry = {"path": path.name, "sha256": digest, "size": megabytes * BLOCK}
    content = releases.content({"onnx": {**releases.artifact(files={}), "files": [entry]}})
    (served / "m/1.0.0" / RELEASE).write_text(json.dumps(content))
    versions = {"1.0.0": {"digest": Release(content=content).digest}}
    (served / "m/index.json").write_text(json.dumps({"schema": 1, "versions": versions}))
    return digest


def by_curl(url: str, root: Path, digest: str) -> float:
    """Seconds that curl and sha256sum take."""
    out = root / "by-curl"
    script = (
        f"curl -sf -o {out} {url}/m/1.0.0/onnx/model.onnx && echo '{digest}  {out}' | sha256sum -c"
    )
    return timed(["sh", "-c", script], out)


def by_pull(url: str, root: Path) -> float:
    """Seconds that `crosscast pull` takes."""
    out = root / "by-pull"
    words = [sys.executable, "-m", "crosscast.pipeline.cli", "pull", f"{url}/m", "-t", "onnx"]
    return timed([*words, "-o", str(out)], out / "model.onnx")


def timed(words: list[str], made: Path) -> float:
    """Wall time of a command that makes a file, which is removed."""
    started = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    made.unlink()
    if made.parent.name == "by-pull":
        made.parent.rmdir()
    return seconds


if __name__ == "__main__":
    main()
