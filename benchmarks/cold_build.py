"""Cold build of the example against a plain script with the same converters, in the same run.

Prints both medians, their ratio (aim: at most 0.65 on two cores) and the build's critical path.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from crosscast.pipeline.config.load import load
from crosscast.pipeline.executors import overlay
from crosscast.pipeline.planner import plan
from crosscast.pipeline.store import default_root
from crosscast.targets.families.tflite import ONNX2TF

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "efficientnet-lite0.yaml"


def main() -> None:
    """Alternate script and build, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    overlay_dir = overlay.build(ONNX2TF.overlay, default_root())
    script, build, path = [], [], (0.0, "")
    for number in range(rounds):
        script.append(timed_script(overlay_dir, show=number == 0))
        seconds, path = timed_build(overlay_dir)
        build.append(seconds)
        print(f"round {number + 1}: script {script[-1]:.1f} s, build {seconds:.1f} s")
    ratio = statistics.median(build) / statistics.median(script)
    print(f"script {statistics.median(script):.1f} s, build {statistics.median(build):.1f} s")
    print(f"ratio {ratio:.2f} (aim: at most 0.65)")
    print(f"critical path of the last build {path[0]:.1f} s: {path[1]}")


def timed_script(overlay_dir: Path, *, show: bool) -> float:
    """Wall time of the plain script."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks/plain_script.py"), out, str(overlay_dir)],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
    if show:
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith("  ")))
    return seconds


def timed_build(overlay_dir: Path) -> tuple[float, tuple[float, str]]:
    """Wall time of a build with an empty store, and its critical path."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch, "cache")
        (cache / "overlays").mkdir(parents=True)
        shutil.copytree(overlay_dir, cache / "overlays" / overlay_dir.name)
        started = time.perf_counter()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "crosscast.pipeline.cli", "build", str(CONFIG)),
                *("--json", "--out", str(Path(scratch, "artifacts"))),
            ],
            env={**os.environ, "CROSSCAST_CACHE": str(cache)},
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
    events = [json.loads(line) for line in done.stdout.splitlines()]
    took = {e["step"]: e["seconds"] for e in events if e["event"] == "step_finished"}
    return seconds, critical_path(took)


def critical_path(took: dict[str, float]) -> tuple[float, str]:
    """The chain of steps that needs the longest, given each step's seconds."""
    ends: dict[str, tuple[float, str]] = {}
    for step in plan(load(CONFIG)).steps:
        before = max((ends[name] for name in step.upstream()), default=(0.0, ""))
        label = f"{step.id} {took[step.id]:.1f}"
        ends[step.id] = (
            before[0] + took[step.id],
            f"{before[1]} -> {label}" if before[1] else label,
        )
    return max(ends.values())


if __name__ == "__main__":
    main()
