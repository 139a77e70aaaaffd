"""Publishers and pulls that are killed at any moment, and publishers at once.

KILLS and SEED of the environment say how many moments of each are tried, and which.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import servers
import shipped
from places import DATA, WAIT, Made, Place, all_places, written

from crosscast.pipeline import cli
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.registries import oci, open_registry

pytestmark = pytest.mark.e2e

KILLS = int(os.environ.get("KILLS", "8"))
SEED = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
WEIGHTS = DATA[:200_000]
SETTLED = oci.SETTLED

PUBLISH = """
import sys
from pathlib import Path
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.document import parse
from crosscast.pipeline.release.registries import oci, open_registry
oci.SETTLED = float(sys.argv[3])
folder = Path(sys.argv[1])
release = parse((folder / "release.json").read_bytes(), where="test")
registry = open_registry(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
registry.publish(folder=folder, release=release)
add = lambda shelf: shelf.add(release.version, release.digest)
channels.update(registry, release.model, add)
print("done", flush=True)
"""

PULL = """
import sys
from crosscast.pipeline import cli
cli.run(["devices"])
print("\\nready", flush=True)
sys.stdin.readline()
assert cli.run(["pull", sys.argv[1], "-t", "onnx", "-o", sys.argv[2]]) == 0
print("done", flush=True)
"""


@contextmanager
def started(script: str, *given: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has made itself ready, and waits for its input to end.

    Of its own, since the library for S3 has threads, which no fork takes along.
    """
    words = (sys.executable, "-c", script, *map(str, given))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, **pipes) as process:
        assert process.stdout is not None
        assert any(line == b"ready\n" for line in process.stdout)
        try:
            yield process
        finally:
            process.kill()


def seconds(script: str, *words: object) -> float:
    """How long it takes when nobody kills it."""
    with started(script, *words) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        begun = time.monotonic()
        process.stdin.close()
        assert any(line == b"done\n" for line in process.stdout)
        return time.monotonic() - begun


def killed(after: float, script: str, *words: object, look: Callable[[], object]) -> None:
    """Run it, kill -9 it after so many seconds, and look all the time, as a reader would."""
    with started(script, *words) as process:
        assert process.stdin is not None
        process.stdin.close()
        timer = threading.Timer(after, process.kill)
        timer.start()
        while process.poll() is None:
            look()
        timer.join()


def moments(whole: float) -> Iterator[float]:
    """Moments of what takes that long, and a little after: at once, and one at random in each
    further part of it.
    """
    print(f"KILLS={KILLS} SEED={SEED}, of {whole:.3f} seconds")  # noqa: T201 - to repeat it
    chance = random.Random(SEED)
    parts = list(range(KILLS))
    chance.shuffle(parts)
    for part in parts:
        yield (part + chance.random()) / KILLS * 1.2 * whole if part else 0.0


@written
def test_a_publish_that_is_killed_is_not_seen(place: Place, tmp_path: Path) -> None:
    def words(made: Made) -> tuple[object, ...]:
        return made.folder, place.publish, WAIT

    whole = seconds(PUBLISH, *words(Made(tmp_path, "half", data=WEIGHTS)))
    seen = []
    for number, after in enumerate(moments(whole)):
        made = Made(tmp_path, "half", f"1.{number}.1", WEIGHTS[number:])
        killed(after, PUBLISH, *words(made), look=lambda made=made: made.is_seen(place))
        seen.append(made.is_seen(place))
        made.publish(place)
        assert made.is_seen(place)
        shelf = channels.read(open_registry(place.url), "half")
        assert shelf.versions[made.release.version] == made.release.digest
    print(f"seen after {sum(seen)} of {KILLS}")  # noqa: T201
    assert not all(seen)


@all_places
def test_a_pull_that_is_killed_leaves_the_old_or_the_new(place: Place, tmp_path: Path) -> None:
    versions = {
        version: Made(tmp_path, "killed", version, data * 100_000)
        for version, data in (("1.0.0", b"old"), ("2.0.0", b"new"))
    }
    for made in versions.values():
        made.publish(place)
    expected = {key: shipped.files(made.folder / "onnx") for key, made in versions.items()}
    out = tmp_path / "out"

    def found() -> str:
        """The version that is there, whole."""
        return next(version for version in expected if shipped.files(out) == expected[version])

    whole = seconds(PULL, f"{place.url}/killed@1.0.0", out)
    renewed = []
    for number, after in enumerate(moments(whole)):
        wanted = "2.0.0" if found() == "1.0.0" else "1.0.0"
        killed(after, PULL, f"{place.url}/killed@{wanted}", out, look=lambda: time.sleep(0.01))
        renewed.append(found() == wanted)
        if number % 4 == 3:  # others go on with what several have left
            words = [f"{place.url}/killed@{wanted}", "-t", "onnx", "-o", str(out)]
            assert cli.run(["pull", *words]) == 0
            assert found() == wanted
            assert not (tmp_path / ".out.pull").exists()
    print(f"new after {sum(renewed)} of {KILLS}")  # noqa: T201
    assert not all(renewed)


PUBLISHERS = 4


@written
def test_publishers_at_once_lose_nothing(place: Place, tmp_path: Path) -> None:
    made = [Made(tmp_path, "crowd", f"1.{n}.0", WEIGHTS[n:]) for n in range(PUBLISHERS)]
    assert together(place, made) == [0] * PUBLISHERS
    assert channels.read(open_registry(place.url), "crowd").versions == {
        it.release.version: it.release.digest for it in made
    }
    assert all(it.is_seen(place) for it in made)


@written
def test_of_publishers_of_one_version_one_wins(place: Place, tmp_path: Path) -> None:
    made = [Made(tmp_path / str(n), "one", data=WEIGHTS[n:]) for n in range(PUBLISHERS)]
    codes = together(place, made)
    assert sorted(codes) == [0, *[1] * (PUBLISHERS - 1)]
    winner = made[codes.index(0)]
    assert winner.is_seen(place)
    shelf = channels.read(open_registry(place.url), "one")
    assert shelf.versions == {"1.0.0": winner.release.digest}


def together(place: Place, made: list[Made]) -> list[int]:
    """Publish them in processes of their own that begin in the same moment; their exit codes."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(PUBLISH, it.folder, place.publish, SETTLED)) for it in made
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        return [process.wait(60) for process in processes]


def test_a_server_that_dies_while_it_is_published_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(tmp_path, "orphan", data=DATA * 5)

    def place(host: str) -> Place:
        docker = servers.docker_config(tmp_path / "docker", host)
        monkeypatch.setenv("DOCKER_CONFIG", str(docker))
        return Place(url=f"oci://{host}", publish=f"oci://{host}", root=tmp_path)

    with ExitStack() as server, ExitStack() as publisher:
        where = place(server.enter_context(servers.oci(tmp_path)))
        process = publisher.enter_context(started(PUBLISH, made.folder, where.publish, WAIT))
        assert process.stdin is not None
        process.stdin.close()
        while not list(tmp_path.rglob("blobs/sha256/*/*/data")):
            assert process.poll() is None
            time.sleep(0.01)
        server.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert re.search(r"RegistryError: .* \(5 tries\)\n  fix: check the network", said)
    with servers.oci(tmp_path) as host:
        assert not made.is_seen(place(host))
        made.publish(place(host))
        assert made.is_seen(place(host))
