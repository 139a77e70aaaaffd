"""Real disks that are full: what is told, what is seen meanwhile, and that it works with room."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import shipped
from disks import grow, small_disk

from crosscast.pipeline import cli
from crosscast.pipeline.errors import RegistryError, StageError
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.document import RELEASE
from crosscast.pipeline.release.registries.directory import Directory

Say = pytest.CaptureFixture[str]
DATA = bytes(range(256)) * 1000
SMALL, LARGE = 500_000, 20_000_000
"""Bytes of a disk; a release of DATA has a million."""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk; the working directory is on it."""
    with small_disk(tmp_path / "disk", SMALL):
        monkeypatch.chdir(tmp_path / "disk")
        yield tmp_path / "disk"
        monkeypatch.undo()


def fill(disk: Path) -> None:
    """Leave no room."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(bytes(free))


def pull(tmp_path: Path, *words: str) -> int:
    return cli.run(["pull", f"{tmp_path}/registry/m", "-t", "onnx", *words])


def publish(
    registry: Directory, folder: Path, *, version: str = "1.0.0", data: bytes = DATA
) -> None:
    shipped.publish(registry, folder, shipped.made(folder, version=version, data=data))


def test_a_pull_goes_on_when_there_is_room(disk: Path, tmp_path: Path, capsys: Say) -> None:
    publish(Directory(tmp_path / "registry"), tmp_path / "built")
    assert pull(tmp_path) == StageError.exit_code
    told = capsys.readouterr().err
    assert "m: cannot be written: no space left on the disk" in told
    assert "free some space and pull again; what has arrived is kept" in told
    assert [path.name for path in disk.iterdir()] == [".m.pull"]
    grow(disk, LARGE)
    assert pull(tmp_path) == 0
    assert re.search(r"m: 5\d\d\.\d KiB downloaded", capsys.readouterr().out)  # of 1000
    assert shipped.files(disk / "m") == shipped.files(tmp_path / "built/onnx")
    assert [path.name for path in disk.iterdir()] == ["m"]


def test_a_pulled_artifact_survives_the_next_one(disk: Path, tmp_path: Path) -> None:
    registry = Directory(tmp_path / "registry")
    publish(registry, tmp_path / "built")
    grow(disk, LARGE)
    assert pull(tmp_path) == 0
    publish(registry, tmp_path / "next", version="1.1.0", data=DATA[1:])
    fill(disk)
    assert pull(tmp_path) == StageError.exit_code
    assert shipped.files(disk / "m") == shipped.files(tmp_path / "built/onnx")


def test_a_lock_file_is_whole_or_not_there(disk: Path, tmp_path: Path, capsys: Say) -> None:
    publish(Directory(tmp_path / "registry"), tmp_path / "built")
    (disk / "locks").mkdir()
    fill(disk)
    words = ("-o", str(tmp_path / "out"), "--lock", "locks/lock")
    assert pull(tmp_path, *words) == StageError.exit_code
    assert "locks/lock: cannot be written: no space left on the disk" in capsys.readouterr().err
    assert list((disk / "locks").iterdir()) == []
    (disk / "filler").unlink()
    assert pull(tmp_path, *words) == 0
    assert [path.name for path in (disk / "locks").iterdir()] == ["lock"]


def test_a_release_is_published_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    registry = Directory(disk / "registry")
    with pytest.raises(RegistryError, match=r"no space left on the disk of .*\n.*publish again"):
        publish(registry, tmp_path / "built")
    assert [path.name for path in (disk / "registry/m").iterdir()] == []
    grow(disk, LARGE)
    publish(registry, tmp_path / "built")
    assert list(channels.read(registry, "m").versions) == ["1.0.0"]


def test_an_index_is_the_old_or_the_new(disk: Path, tmp_path: Path) -> None:
    grow(disk, LARGE)
    registry = Directory(disk / "registry")
    publish(registry, tmp_path / "built")
    before = channels.read(registry, "m")
    release = shipped.made(tmp_path / "next", data=DATA, version="1.1.0")
    registry.publish(folder=tmp_path / "next", release=release)
    fill(disk)
    with pytest.raises(RegistryError, match="no space left on the disk"):
        channels.update(registry, "m", lambda shelf: shelf.add("1.1.0", release.digest))
    assert channels.read(registry, "m") == before
    (disk / "filler").unlink()
    publish(registry, tmp_path / "next", version="1.1.0")
    assert list(channels.read(registry, "m").versions) == ["1.0.0", "1.1.0"]
    assert registry.document(model="m", version="1.1.0", name=RELEASE)


def test_a_key_is_whole_or_not_there(disk: Path, capsys: Say) -> None:
    fill(disk)
    assert cli.run(["keygen"]) == 2
    assert "crosscast.key: cannot be written: No space left on device" in capsys.readouterr().err
    assert [path.name for path in disk.iterdir()] == ["filler"]
    (disk / "filler").unlink()
    assert cli.run(["keygen"]) == 0
