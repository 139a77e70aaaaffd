from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline import digest as digests
from crosscast.pipeline import staging
from crosscast.pipeline.errors import ConfigError, StageError
from crosscast.pipeline.store import Record, Store, default_root

TICK = 0.02  # longer than a tick of the filesystem's clock
Files = dict[str, str]
ONE: Files = {"model.onnx": "weights", "sub/notes.json": "{}"}
OTHER: Files = {"model.onnx": "WEIGHTS", "sub/more.json": "[]"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def write(directory: Path, files: Files) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(directory: Path) -> Files:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


def put(store: Store, files: Files) -> str:
    with store.workspace() as workspace:
        out = workspace.directory("step")
        write(out, files)
        return store.put(out)


def spoil(path: Path, text: str) -> None:
    """Change a file's content but neither its size nor its mtime."""
    status = path.stat()
    time.sleep(TICK)
    path.chmod(0o644)
    path.write_text(text)
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 3)


# Trees


def test_a_tree_is_kept_as_it_was_and_read_only(store: Store) -> None:
    digest = put(store, ONE)
    assert read(store.tree_path(digest)) == ONE
    assert store.intact(digest)
    assert (store.tree_path(digest) / "model.onnx").stat().st_mode & 0o222 == 0


def test_the_digest_is_of_paths_and_contents(store: Store, tmp_path: Path) -> None:
    assert put(store, ONE) == put(store, ONE) == put(Store(tmp_path / "elsewhere"), ONE)
    assert put(store, ONE) != put(store, OTHER)
    assert put(store, {"a": "x"}) != put(store, {"b": "x"})


def test_empty_directories_are_no_part_of_a_tree(store: Store) -> None:
    with store.workspace() as workspace:
        out = workspace.directory("step")
        write(out, ONE)
        (out / "empty" / "inner").mkdir(parents=True)
        digest = store.put(out)
    assert digest == put(store, ONE)
    assert not (store.tree_path(digest) / "empty").exists()


def test_directories_that_a_stage_left_read_only_are_taken(store: Store) -> None:
    with store.workspace() as workspace:
        out = workspace.directory("step")
        write(out, ONE)
        (out / "sub").chmod(0o500)
        assert store.put(out) == put(store, ONE)


def test_a_file_that_is_linked_from_elsewhere_becomes_a_copy(store: Store, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("weights")
    with store.workspace() as workspace:
        out = workspace.directory("step")
        os.link(theirs, out / "model.onnx")
        digest = store.put(out)
    assert theirs.stat().st_mode & 0o200
    theirs.write_text("WEIGHTS")
    assert read(store.tree_path(digest)) == {"model.onnx": "weights"}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/etc/passwd"),
        lambda path: path.symlink_to("/etc"),
        lambda path: path.symlink_to("dangling"),
        lambda path: os.mkfifo(path),
    ],
)
def test_links_and_special_files_are_refused(store: Store, make: Callable[[Path], None]) -> None:
    with store.workspace() as workspace:
        out = workspace.directory("step")
        make(out / "odd")
        with pytest.raises(StageError, match="odd is neither a file nor a directory"):
            store.put(out)


def test_what_is_no_directory_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "gone"):
        with pytest.raises(StageError, match=name):
            store.put(tmp_path / name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: spoil(tree / "model.onnx", "wEights"),
        lambda tree: (tree / "model.onnx").unlink(),
        lambda tree: (tree / "extra").touch(),
        lambda tree: truncate(tree / "model.onnx"),
        lambda tree: (tree / "model.onnx").rename(tree / "moved.onnx"),
        lambda tree: (tree / "link").symlink_to("model.onnx"),
    ],
)
def test_a_damaged_tree_is_not_trusted_but_removed(
    store: Store, damage: Callable[[Path], object]
) -> None:
    digest = put(store, ONE)
    damage(store.tree_path(digest))
    assert not store.intact(digest)
    assert not store.tree_path(digest).exists()
    assert put(store, ONE) == digest
    assert store.intact(digest)


def test_putting_a_tree_mends_a_damaged_one(store: Store) -> None:
    digest = put(store, ONE)
    spoil(store.tree_path(digest) / "model.onnx", "wEights")
    put(store, ONE)
    assert read(store.tree_path(digest)) == ONE


def test_trees_are_hashed_only_when_their_stamps_change(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, ONE)
    hashed = []
    real = digests.hashlib.file_digest

    def spy(file: object, name: str) -> object:
        hashed.append(file)
        return real(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(digests.hashlib, "file_digest", spy)
    assert store.intact(digest)
    assert not hashed
    time.sleep(TICK)
    (store.tree_path(digest) / "model.onnx").touch()
    assert store.intact(digest)
    assert len(hashed) == 1
    assert store.intact(digest)
    assert len(hashed) == 1


@pytest.mark.parametrize("index", ["", "{", "[]", '{"model.onnx": {}}', "\x00"])
def test_a_damaged_index_costs_only_hashing(store: Store, index: str) -> None:
    digest = put(store, ONE)
    store.tree_path(digest).with_name(f"{digest}.json").write_text(index)
    assert store.intact(digest)


def test_a_wrong_hash_in_an_index_is_not_believed(store: Store) -> None:
    digest = put(store, ONE)
    index = store.tree_path(digest).with_name(f"{digest}.json")
    entries = json.loads(index.read_text())
    entries["model.onnx"]["sha256"] = "0" * 64
    index.write_text(json.dumps(entries))
    assert store.intact(digest)
    assert not store.intact("0" * 64)


# Facts


def test_records_are_read_back(store: Store) -> None:
    record = Record(tree="a" * 64, seconds=1.5, peak=7, notes={"exporter": "dynamo"})
    store.save_record("f", record)
    assert store.record("f") == record
    assert store.record("other") is None


@pytest.mark.parametrize(
    "garbage",
    ["", "{", "[]", "null", "\x00\x01", '{"tree": "../../x"}', '{"tree": 3}', "[" * 100000],
)
def test_a_garbage_record_is_no_record(store: Store, garbage: str) -> None:
    store.save_record("f", Record(tree="a" * 64))
    (store.root / "records" / "f.json").write_text(garbage)
    assert store.record("f") is None


def test_a_truncated_record_is_no_record(store: Store) -> None:
    record = Record(tree="a" * 64)
    store.save_record("f", record)
    path = store.root / "records" / "f.json"
    whole = path.read_text()
    for length in range(len(whole)):
        path.write_text(whole[:length])
        assert store.record("f") is None


def test_small_facts_are_read_back(store: Store) -> None:
    assert store.dependencies("base") == ()
    assert store.last("config:step") is None
    assert store.peak("step") is None
    store.save_dependencies("base", ["/b.py", "/a.py"])
    store.save_last("config:step", {"stage": "export"})
    store.learn_peak("step", 5)
    store.learn_peak("step", 4)
    assert store.dependencies("base") == ("/a.py", "/b.py")
    assert store.last("config:step") == {"stage": "export"}
    assert store.peak("step") == 4


def test_file_digests_outlive_the_process(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("weights")
    assert store.file_digest(path) == digests.file_sha256(path)
    assert store.file_digest(tmp_path / "gone") == "missing"
    os.utime(path, (0, 0))
    assert Store(store.root).file_digest(path) == digests.file_sha256(path)


def test_logs_have_readable_names(store: Store) -> None:
    log = store.log("/configs/a.yaml", "convert tflite-int8")
    assert log.name == "convert_tflite-int8.log"
    assert log.parent.is_dir()
    assert log.parent != store.log("/configs/b.yaml", "convert tflite-int8").parent
    assert store.log("c", "../../x").parent == store.log("c", "y").parent


# Workspaces


def test_a_workspace_is_removed_at_the_end(store: Store) -> None:
    with store.workspace() as workspace:
        out = workspace.directory("export")
        write(out, ONE)
        assert workspace.path("export") == out
        assert read(workspace.directory("export")) == {}
    assert not workspace.root.exists()


def test_live_workspaces_are_left_alone_and_dead_ones_removed(store: Store) -> None:
    dead = store.root / "tmp" / ("0" * 16)
    write(dead, ONE)
    (dead / "sub").chmod(0o500)
    with store.workspace() as first, store.workspace():
        assert first.root.exists()
        assert not dead.exists()


# Delivery


@pytest.fixture(params=["at once", "in steps"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in steps":
        monkeypatch.setattr(staging, "_exchange_at_once", lambda *_: False)


@pytest.mark.usefixtures("exchange")
def test_a_delivery_replaces_the_one_before(store: Store, tmp_path: Path) -> None:
    destination = tmp_path / "artifacts" / "m" / "onnx [1]"
    for files in (ONE, OTHER):
        digest = put(store, files)
        assert not store.delivered(digest, destination)
        store.deliver(digest, destination)
        assert read(destination) == files
        assert store.delivered(digest, destination)
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]
    assert (destination / "model.onnx").stat().st_mode & 0o200
    assert destination.stat().st_mode & 0o500 == 0o500


@pytest.mark.parametrize(
    "tamper",
    [
        lambda path: spoil(path / "model.onnx", "wEights"),
        lambda path: (path / "model.onnx").unlink(),
        lambda path: (path / "extra").touch(),
        lambda path: path.rename(path.with_name("moved")),
    ],
)
def test_a_tampered_delivery_is_delivered_again(
    store: Store, tmp_path: Path, tamper: Callable[[Path], object]
) -> None:
    digest, destination = put(store, ONE), tmp_path / "onnx"
    store.deliver(digest, destination)
    tamper(destination)
    assert not store.delivered(digest, destination)
    store.deliver(digest, destination)
    assert read(destination) == ONE


def test_a_delivery_is_known_by_another_store_and_after_a_move(
    store: Store, tmp_path: Path
) -> None:
    digest = put(store, ONE)
    store.deliver(digest, tmp_path / "onnx")
    (tmp_path / "onnx").rename(tmp_path / "moved")
    assert Store(tmp_path / "another").delivered(digest, tmp_path / "moved")


def test_leftovers_of_a_killed_delivery_are_removed(store: Store, tmp_path: Path) -> None:
    digest, token = put(store, ONE), "0" * 16
    stale, others = tmp_path / f".onnx.{token}.tmp", tmp_path / f".onnx-int8.{token}.tmp"
    write(stale, ONE)
    write(others, ONE)
    store.deliver(digest, tmp_path / "onnx")
    assert not stale.exists()
    assert others.exists()


def test_a_link_to_a_directory_stays_one(store: Store, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "onnx").symlink_to(tmp_path / "real")
    digest = put(store, ONE)
    store.deliver(digest, tmp_path / "onnx")
    assert (tmp_path / "onnx").is_symlink()
    assert read(tmp_path / "real") == ONE
    assert store.delivered(digest, tmp_path / "onnx")


def test_rotten_bytes_are_not_delivered(store: Store, tmp_path: Path) -> None:
    """A disk can change bytes without touching any stamp."""
    digest = put(store, ONE)
    spoil(store.tree_path(digest) / "model.onnx", "wEights")
    entries = digests.entries_from_json(
        json.loads(store.tree_path(digest).with_name(f"{digest}.json").read_text())
    )
    forged = {
        name: digests.entry(store.tree_path(digest) / name, entry.sha256)
        for name, entry in entries.items()
    }
    store._save_entries("trees", digest, forged)
    assert store.intact(digest)
    write(tmp_path / "onnx", OTHER)
    with pytest.raises(StageError, match="missing or damaged"):
        store.deliver(digest, tmp_path / "onnx")
    assert read(tmp_path / "onnx") == OTHER
    assert not store.intact(digest)


def test_a_tree_that_is_not_there_is_not_delivered(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="missing or damaged"):
        store.deliver("0" * 64, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_file_in_the_way_is_not_overwritten(store: Store, tmp_path: Path) -> None:
    digest = put(store, ONE)
    (tmp_path / "file").write_text("mine")
    for destination in (tmp_path / "file", tmp_path / "file" / "onnx"):
        assert not store.delivered(digest, destination)
        with pytest.raises(ConfigError, match="cannot write"):
            store.deliver(digest, destination)
    assert (tmp_path / "file").read_text() == "mine"


# What a machine can refuse


def test_a_directory_without_permission_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    digest = put(store, ONE)
    mkdir = Path.mkdir

    def refuse(path: Path, *args: Any, **options: Any) -> None:  # root may write everywhere
        if locked in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"cannot write .*locked"):
        store.deliver(digest, locked / "onnx")
    with pytest.raises(ConfigError, match=r"cannot write .*locked"):
        Store(locked / "cache")


def test_a_file_as_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(ConfigError, match=r"cannot write .*file"):
            Store(root)


def test_a_full_disk_leaves_nothing_half_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, ONE)
    store.deliver(digest, tmp_path / "onnx")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with store.workspace() as workspace:
        out = workspace.directory("step")
        write(out, OTHER)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            with pytest.raises(StageError) as caught:
                store.save_record("f", Record(tree=digest))
        assert "no space left on the disk of" in caught.value.message
        assert "CROSSCAST_CACHE" in caught.value.fix
        other = store.put(out)
    with monkeypatch.context() as patch:
        patch.setattr(staging, "entry", full)
        with pytest.raises(StageError, match=r"no space .*onnx"):
            store.deliver(other, tmp_path / "onnx")
    assert read(tmp_path / "onnx") == ONE
    assert not list(tmp_path.glob(".onnx.*"))
    assert store.record("f") is None
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({"CROSSCAST_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"CROSSCAST_CACHE": "~/a"}, "/home/x/a"),
        ({"CROSSCAST_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/crosscast"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/x/.cache/crosscast"),
        ({}, "/home/x/.cache/crosscast"),
    ],
)
def test_default_root(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], root: str
) -> None:
    for name in ("CROSSCAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_root() == Path(root)


# Several builds at once, and killed ones

BUILD = """
import itertools, sys
from pathlib import Path
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.store import Record, Store

store, destination, damage = Store(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:]
print("ready", flush=True)
for i in itertools.count():
    text = str(i % 3) * 200_000
    with store.workspace() as workspace:
        out = workspace.directory("step")
        (out / "sub").mkdir()
        for name in ("a", "b", "sub/c"):
            (out / name).write_text(text)
        tree = store.put(out)
    store.save_record(str(i % 3), Record(tree=tree, notes={"text": text}))
    try:
        store.deliver(tree, destination)
    except StageError as error:
        if not damage or "missing or damaged" not in error.message:
            raise
    if damage and i % 5 == 4 and store.tree_path(tree).exists():
        try:
            (store.tree_path(tree) / "extra").touch()
        except FileNotFoundError:
            pass
        store.intact(tree)
"""


def start(store: Store, destination: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, str(store.root), str(destination), *options]
    build = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert build.stdout is not None
    assert build.stdout.readline() == "ready\n"
    return build


def check(store: Store, destination: Path) -> None:
    """Every visible tree, record and delivery is whole."""
    for tree in (store.root / "trees").iterdir():
        if tree.is_dir() and not (tree / "extra").exists():
            assert digests.of_entries(digests.measure(tree)) == tree.name
            assert store.intact(tree.name)
    for path in (store.root / "records").iterdir():
        assert store.record(path.stem) is not None
    if destination.exists():
        files = read(destination)
        assert sorted(files) == ["a", "b", "sub/c"]
        assert len(set(files.values())) == 1


@pytest.mark.parametrize("options", [(), ("damage",)])
def test_builds_at_once_do_not_disturb_each_other(
    store: Store, tmp_path: Path, options: tuple[str, ...]
) -> None:
    destination = tmp_path / "onnx"
    builds = [start(store, destination, *options) for _ in range(2)]
    end, delivered = time.monotonic() + 1.5, False
    while time.monotonic() < end:
        there = destination.is_dir()
        assert there or not delivered
        delivered = there
    for build in builds:
        assert build.poll() is None, build.communicate()[1]
        build.kill()
        build.communicate()
    check(store, destination)


def test_a_build_may_be_killed_at_any_moment(store: Store, tmp_path: Path) -> None:
    destination = tmp_path / "onnx"
    moments = random.Random(0)
    for _ in range(20):
        build = start(store, destination, "damage")
        time.sleep(moments.uniform(0, 0.06))
        build.kill()
        build.communicate()
        check(store, destination)
    digest = put(store, ONE)
    store.deliver(digest, destination)
    assert read(destination) == ONE
    assert not list((store.root / "tmp").iterdir())
    assert not list(tmp_path.glob(".onnx.*"))
