"""The directory registry: what readers see, whoever publishes, however it ends."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from releases import write

from crosscast.pipeline import staging
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import GateError, RegistryError
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Entry, parse
from crosscast.pipeline.release.registries import open_registry
from crosscast.pipeline.release.registries.base import LARGEST, Conflict
from crosscast.pipeline.release.registries.directory import Directory

MOMENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir")
"""What Python says to audit hooks before it does it."""

MOST_MOMENTS = 500


@pytest.fixture
def registry(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "registry")


def publish(registry: Directory, folder: Path, **given: object) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    registry.publish(folder=folder, release=write(folder, **given))  # type: ignore[arg-type]


def read(registry: Directory, path: str, *, version: str = "1.0.0", start: int = 0) -> bytes:
    entry = Entry(path=path, sha256="", size=0)
    with registry.open(model="m", version=version, entry=entry, start=start) as pieces:
        return b"".join(pieces)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_is_published_is_read(registry: Directory, tmp_path: Path) -> None:
    publish(registry, tmp_path / "r", data=b"weights")
    content = registry.document(model="m", version="1.0.0", name=RELEASE)
    assert content == (tmp_path / "r" / RELEASE).read_bytes()
    assert registry.document(model="m", version="1.0.0", name=SIGNATURE) is None
    assert registry.document(model="m", version="2.0.0", name=RELEASE) is None
    assert registry.document(model="other", version="1.0.0", name=RELEASE) is None
    assert read(registry, "onnx/model.onnx") == b"weights"
    assert read(registry, "onnx/sub/part.bin", start=18) == b"hts"
    assert names(registry.root / "m") == [
        ".lock", "1.0.0", "1.0.0/onnx", "1.0.0/onnx/manifest.json", "1.0.0/onnx/model.onnx",
        "1.0.0/onnx/sub", "1.0.0/onnx/sub/part.bin", "1.0.0/release.json",
    ]  # fmt: skip


def test_a_signature_is_published_with_it(registry: Directory, tmp_path: Path) -> None:
    release = write(tmp_path / "r")
    (tmp_path / "r" / SIGNATURE).write_bytes(b"signed")
    registry.publish(folder=tmp_path / "r", release=release)
    assert registry.document(model="m", version="1.0.0", name=SIGNATURE) == b"signed"


def test_files_that_the_release_does_not_name_are_not_published(
    registry: Directory, tmp_path: Path
) -> None:
    release = write(tmp_path / "r")
    (tmp_path / "r/onnx/secret.txt").touch()
    registry.publish(folder=tmp_path / "r", release=release)
    assert not (registry.root / "m/1.0.0/onnx/secret.txt").exists()


def test_the_same_release_again_is_left_as_it_is(registry: Directory, tmp_path: Path) -> None:
    publish(registry, tmp_path / "r", seconds=1)
    before = (registry.root / "m/1.0.0").stat().st_ino
    publish(registry, tmp_path / "r", seconds=2)
    assert (registry.root / "m/1.0.0").stat().st_ino == before


def test_other_content_of_a_version_is_refused(registry: Directory, tmp_path: Path) -> None:
    publish(registry, tmp_path / "r", data=b"one")
    with pytest.raises(GateError, match=r"m 1\.0\.0 is published in .*, with other content"):
        publish(registry, tmp_path / "r", data=b"two")
    assert read(registry, "onnx/model.onnx") == b"one"


def test_a_build_that_is_no_release_gives_way(registry: Directory, tmp_path: Path) -> None:
    (registry.root / "m/1.0.0/tflite").mkdir(parents=True)
    publish(registry, tmp_path / "r")
    assert sorted(path.name for path in (registry.root / "m/1.0.0").iterdir()) == [
        "onnx",
        RELEASE,
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b"weighty"),
        lambda file: file.write_bytes(b"weights and more"),
        lambda file: file.write_bytes(b""),
        lambda file: (file.unlink(), file.symlink_to("/etc/hostname")),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
    ],
)
def test_a_file_that_is_not_the_one_is_not_published(
    registry: Directory, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    release = write(tmp_path / "r")
    spoil(tmp_path / "r/onnx/model.onnx")
    with pytest.raises(RegistryError):
        registry.publish(folder=tmp_path / "r", release=release)
    assert names(registry.root / "m") == []


@pytest.mark.parametrize("part", ["", "m", "m/1.0.0", "m/1.0.0/release.json", "m/1.0.0/onnx"])
def test_links_are_not_followed(registry: Directory, tmp_path: Path, part: str) -> None:
    publish(registry, tmp_path / "r")
    place = registry.root / part
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    if not part:  # the registry's own directory may be reached through one
        assert read(registry, "onnx/model.onnx") == b"weights"
        return
    document = part != "m/1.0.0/onnx"
    with pytest.raises(RegistryError, match="through a link or a file"):
        assert (
            registry.document(model="m", version="1.0.0", name=RELEASE)
            if document
            else read(registry, "onnx/model.onnx")
        )


@pytest.mark.parametrize("model", ["..", "../m", "a/b", "", "M", "."])
def test_a_name_that_leaves_the_registry_is_refused(registry: Directory, model: str) -> None:
    with pytest.raises(RegistryError, match="is no name of a model"):
        registry.index(model=model)


@pytest.mark.parametrize("version", ["..", "1.0", "1.0.0/..", "", "stable"])
def test_what_is_no_version_is_refused(registry: Directory, version: str) -> None:
    with pytest.raises(RegistryError, match="is no version"):
        registry.document(model="m", version=version, name=RELEASE)


def test_an_endless_document_is_refused(registry: Directory, tmp_path: Path) -> None:
    publish(registry, tmp_path / "r")
    with (registry.root / "m/1.0.0" / RELEASE).open("r+b") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(RegistryError, match="over 16 MiB"):
        registry.document(model="m", version="1.0.0", name=RELEASE)


def test_a_full_disk_is_told_and_leaves_nothing(
    registry: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    release = write(tmp_path / "r")
    monkeypatch.setattr(staging, "put_in_place", full)
    with pytest.raises(RegistryError, match="no space left on the disk"):
        registry.publish(folder=tmp_path / "r", release=release)
    assert names(registry.root / "m") == [".lock"]


def test_what_is_renamed_is_on_the_disk(
    registry: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and directories by their numbers; names change in between."""
    synced: list[int] = []
    put, sync = staging.put_in_place, os.fsync

    def placed(staged: Path, place: Path) -> None:
        assert {path.stat().st_ino for path in (staged, *staged.rglob("*"))} <= set(synced)
        put(staged, place)

    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.append(os.fstat(number).st_ino), sync(number))
    )
    monkeypatch.setattr(staging, "put_in_place", placed)
    add(registry, tmp_path / "r", "1.0.0")
    model = registry.root / "m"
    assert {(model / "index.json").stat().st_ino, model.stat().st_ino} <= set(synced)


def test_a_registry_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "registry").touch()
    release = write(tmp_path / "r")
    with pytest.raises(RegistryError, match=r"registry/m/1\.0\.0: "):
        Directory(tmp_path / "registry").publish(folder=tmp_path / "r", release=release)


def test_an_index_is_written_only_over_the_one_that_was_read(registry: Directory) -> None:
    first = registry.index(model="m")
    assert first.content == b""
    registry.write_index(model="m", content=b"one", token=first.token)
    with pytest.raises(Conflict):
        registry.write_index(model="m", content=b"two", token=first.token)
    assert registry.index(model="m").content == b"one"


@pytest.mark.parametrize("url", ["{}", "file://{}"])
def test_a_path_is_a_registry(tmp_path: Path, url: str) -> None:
    registry = open_registry(url.format(tmp_path))
    assert isinstance(registry, Directory)
    assert registry.root == tmp_path


# Several processes


def forked(work: Callable[[], object]) -> int:
    """Do something in a child; its pid. The child ends without running what the test would."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def add(registry: Directory, folder: Path, version: str) -> None:
    """Publish a release and its place in the index, as `release` does."""
    digest = write(folder, version=version).digest
    publish(registry, folder, version=version)
    channels.update(registry, "m", lambda shelf: shelf.add(version, digest))


def test_publishers_at_once_lose_nothing(registry: Directory, tmp_path: Path) -> None:
    pids = [
        forked(lambda n=n: [add(registry, tmp_path / f"{n}", f"{n}.{k}.0") for k in range(5)])
        for n in range(4)
    ]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    found = channels.read(registry, "m").versions
    assert sorted(found) == [f"{n}.{k}.0" for n in range(4) for k in range(5)]


def test_of_two_at_once_with_one_version_one_wins(registry: Directory, tmp_path: Path) -> None:
    def work(n: int) -> None:
        publish(registry, tmp_path / str(n), data=b"%d" % n * 1000)

    pids = [forked(lambda n=n: work(n)) for n in range(4)]
    ends = sorted(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    assert ends == [False, False, False, True]
    check(registry)


def check(registry: Directory) -> list[str]:
    """Every release that a reader sees is whole; gives their versions."""
    seen = []
    for folder in sorted((registry.root / "m").iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        release = parse((folder / RELEASE).read_bytes(), where=str(folder))
        for entry in release.entries():
            assert file_sha256(folder / entry.path) == entry.sha256
        seen.append(folder.name)
    indexed = channels.read(registry, "m").versions
    assert set(indexed) <= set(seen)
    return seen


def test_a_publisher_killed_before_any_file_operation_leaves_whole_releases(
    registry: Directory, tmp_path: Path
) -> None:
    (registry.root / "m").mkdir(parents=True)
    add(registry, tmp_path / "r", "0.0.0")

    def killed_at(moment: int) -> None:
        left = iter(range(moment))

        def count(event: str, _: object) -> None:
            if event in MOMENTS and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        release = write(tmp_path / "r", version="1.0.0", data=b"%d" % moment)
        sys.addaudithook(count)
        registry.publish(folder=tmp_path / "r", release=release)
        channels.update(registry, "m", lambda shelf: shelf.add("1.0.0", release.digest))

    seen = set()
    for moment in range(MOST_MOMENTS):
        pid = forked(lambda n=moment: killed_at(n))
        ended = os.waitpid(pid, 0)[1]
        seen.add(tuple(check(registry)))
        add(registry, tmp_path / "again", f"2.{moment}.0")  # the next one is not in the way of it
        assert f"2.{moment}.0" in check(registry)
        for version in ("1.0.0", f"2.{moment}.0"):
            forget(registry, version)
        if ended == 0:
            break
    assert ended == 0, "it never came to its end"
    assert moment > 30, "few moments were tried"
    assert seen == {("0.0.0",), ("0.0.0", "1.0.0")}
    left = {path.name for path in (registry.root / "m").iterdir() if path.name.startswith(".")}
    assert left <= {".lock", ".index.json.tmp"}


def forget(registry: Directory, version: str) -> None:
    """Take a version out again, so that every round starts from the same."""
    shutil.rmtree(registry.root / "m" / version, ignore_errors=True)
    channels.update(
        registry,
        "m",
        lambda shelf: replace(
            shelf, versions={key: shelf.versions[key] for key in shelf.versions if key != version}
        ),
    )
