"""Pull, from a directory and from a registry that misbehaves on purpose."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import shipped

from crosscast.pipeline import cli, web
from crosscast.pipeline.errors import ConfigError, RegistryError, StageError
from crosscast.pipeline.release import pull as work
from crosscast.pipeline.release import signing
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Entry
from crosscast.pipeline.release.registries.directory import Directory
from crosscast.pipeline.release.transfer import bring

Say = pytest.CaptureFixture[str]
DATA = bytes(range(256)) * 40


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with `m` 1.0.0, signed; the working directory is empty."""
    private, _ = signing.keygen(tmp_path / "keys")
    publish(tmp_path / "registry", "1.0.0", DATA, key=private)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "registry"


def publish(root: Path, version: str, data: bytes, **given: Any) -> None:
    folder = root.parent / f"built-{version}"
    release = shipped.made(
        folder, version=version, data=data, targets=("onnx", "tflite-int8"), **given
    )
    shipped.publish(Directory(root), folder, release)


def pull(root: Path, *words: str, model: str = "m") -> int:
    return cli.run(["pull", f"{root}/{model}", *words])


def there(path: str = "m") -> dict[str, bytes]:
    return shipped.files(Path(path))


def released(root: Path, target: str = "onnx", version: str = "1.0.0") -> dict[str, bytes]:
    return shipped.files(root.parent / f"built-{version}" / target)


def left() -> list[str]:
    return sorted(path.name for path in Path.cwd().iterdir())


def test_a_target_is_pulled_into_a_directory_of_the_models_name(root: Path, capsys: Say) -> None:
    assert pull(root, "-t", "onnx") == 0
    assert there() == released(root)
    assert left() == ["m"]
    assert capsys.readouterr().out.splitlines()[1:] == ["onnx: 0.0 MiB, passed", "m <- 0.0 MiB"]


def test_a_device_gets_what_suits_it(root: Path, capsys: Say) -> None:
    assert pull(root, "--device", "pixel-8", "--explain", "-o", "assets/model") == 0
    assert there("assets/model") == released(root, "tflite-int8")
    assert "tflite-int8: taken, the first that fits pixel-8" in capsys.readouterr().out


def test_a_release_brings_devices_of_its_own(root: Path, capsys: Say) -> None:
    kiosk = {"summary": "Ours", "targets": ["onnx"], "limits": {"opset": 18}}
    publish(root, "2.0.0", DATA, devices={"kiosk": kiosk})
    assert pull(root, "--list") == 0
    assert capsys.readouterr().out.endswith("its own devices: kiosk\n")
    assert pull(root, "--device", "kiosk") == 0
    assert there() == released(root, "onnx", "2.0.0")
    Path("mine.yaml").write_text("devices: {kiosk: {targets: [tflite-int8]}}")
    assert pull(root, "--device", "kiosk", "--devices", "mine.yaml") == 0
    assert there() == released(root, "tflite-int8", "2.0.0")
    assert pull(root, "--device", "kiosk", model="m@1.0.0") == 2
    assert "no device 'kiosk'" in capsys.readouterr().err


def test_devices_that_cannot_be_used(root: Path, capsys: Say) -> None:
    publish(root, "2.0.0", DATA, devices={"kiosk": {"like": "kiosk"}})
    assert pull(root, "--device", "pixel-8") == 6
    assert "its devices cannot be used: kiosk is not complete" in capsys.readouterr().err
    assert pull(root, "-t", "onnx") == 0


def test_a_device_that_nothing_fits(root: Path, capsys: Say) -> None:
    assert pull(root, "--device", "microcontroller") == 6
    said = capsys.readouterr().err
    assert "nearest is tflite-int8, but it has the dynamic dimension batch" in said
    assert left() == []


@pytest.mark.parametrize("word", ["--list", "--dry-run"])
def test_looking_only(word: str, root: Path, capsys: Say) -> None:
    assert pull(root, "-t", "onnx", word) == 0
    assert "passed" in capsys.readouterr().out
    assert left() == []


def test_the_highest_version_a_channel_and_a_version(root: Path) -> None:
    publish(root, "1.10.0", b"newer")
    publish(root, "1.9.0", b"older")
    for model, version in (("m", "1.10.0"), ("m@stable", "1.9.0"), ("m@1.0.0", "1.0.0")):
        assert pull(root, "-t", "onnx", model=model) == 0
        assert there() == released(root, version=version)
    assert left() == ["m"]


@pytest.mark.parametrize(
    ("model", "words", "code", "said"),
    [
        ("m", [], 2, "one of --device and --target is needed"),
        ("m", ["--device", "a", "-t", "b"], 2, "one of --device and --target is needed"),
        ("m", ["--device", "pixl-8"], 2, "no device 'pixl-8'; did you mean 'pixel-8'?"),
        ("m", ["-t", "coreml-fp16"], 6, "m 1.0.0 has no target 'coreml-fp16'"),
        ("m@2.0.0", ["-t", "onnx"], 6, "m has no version '2.0.0'"),
        ("m@1.x", ["-t", "onnx"], 6, "m has no version '1.x'"),
        ("m@stabel", ["-t", "onnx"], 6, "no channel 'stabel'; did you mean 'stable'?"),
        ("n", ["-t", "onnx"], 6, "has no model 'n'"),
        ("m@", ["-t", "onnx"], 2, "names no release"),
        ("m", ["-t", "onnx", "--key", "none.pub"], 2, "none.pub"),
        ("m", ["--device", "pixel-8", "--devices", "none.yaml"], 2, "none.yaml: no such file"),
    ],
)
def test_what_cannot_be_pulled(
    model: str, words: list[str], code: int, said: str, root: Path, capsys: Say
) -> None:
    assert pull(root, *words, model=model) == code
    assert said in capsys.readouterr().err
    assert left() == []


def test_a_name_without_a_registry(capsys: Say) -> None:
    assert cli.run(["pull", "m", "-t", "onnx"]) == 2
    assert "'m' names no registry" in capsys.readouterr().err
    assert cli.run(["pull", "ftp://host/m", "-t", "onnx"]) == 2
    assert "no registry is reached by ftp://" in capsys.readouterr().err


# What is in the way


def test_what_is_no_artifact_is_not_overwritten(root: Path, capsys: Say) -> None:
    Path("m").mkdir()
    Path("m/thesis.txt").write_text("mine")
    assert pull(root, "-t", "onnx") == 2
    assert "what is in it is no artifact, and would be lost" in capsys.readouterr().err
    Path("m/thesis.txt").unlink()
    assert pull(root, "-t", "onnx") == 0
    Path("m/thesis.txt").write_text("mine")
    assert pull(root, "-t", "tflite-int8") == 2
    assert "'thesis.txt' in it is of no artifact, and would be lost" in capsys.readouterr().err
    assert Path("m/thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/tmp")])
def test_a_file_or_link_is_not_overwritten(
    make: Callable[[Path], None], root: Path, capsys: Say
) -> None:
    make(Path("m"))
    assert pull(root, "-t", "onnx") == 2
    assert "it is no directory" in capsys.readouterr().err


def test_a_pulled_artifact_is_replaced_whole(root: Path) -> None:
    assert pull(root, "-t", "onnx") == 0
    assert pull(root, "-t", "tflite-int8") == 0
    assert there() == released(root, "tflite-int8")
    Path("m/model.bin").write_bytes(b"damaged")
    assert pull(root, "-t", "tflite-int8") == 0
    assert there() == released(root, "tflite-int8")


def test_what_a_killed_pull_left_is_used_or_swept(root: Path, capsys: Say) -> None:
    tree = Path(".m.pull/tree")
    (tree / "old/deep").mkdir(parents=True)
    (tree / "old/deep/x.bin").write_bytes(b"of another release")
    (tree / "old/link").symlink_to("/tmp")
    (tree / "sub").mkdir()
    (tree / "sub/part.bin").write_bytes((DATA * 3)[:20_000])
    (tree / "model.bin").write_bytes(b"not its beginning")
    assert pull(root, "-t", "onnx") == 0
    assert there() == released(root)
    assert left() == ["m"]


def test_what_a_pull_left_that_was_killed_at_its_end_is_swept(root: Path, capsys: Say) -> None:
    assert pull(root, "-t", "onnx") == 0
    Path(".m.pull/tree").mkdir(parents=True)
    assert pull(root, "-t", "onnx") == 0
    assert "m is up to date" in capsys.readouterr().out
    assert left() == ["m"]


# Tampered with


def tampered(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change release.json where it is; the index goes along, as an attacker would have it."""
    path = root / "m/1.0.0" / RELEASE
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    from crosscast.pipeline.release.document import Release

    index = json.loads((root / "m/index.json").read_bytes())
    index["versions"]["1.0.0"]["digest"] = Release(content=content).digest
    (root / "m/index.json").write_text(json.dumps(index))


def file(number: int = 0, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["artifacts"]["onnx"]["files"][number].update(changes)


def test_a_file_that_was_changed_is_refused(root: Path, capsys: Say) -> None:
    path = root / "m/1.0.0/onnx/model.bin"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert pull(root, "-t", "onnx") == 6
    assert "model.bin of m 1.0.0 is not the file that was released" in capsys.readouterr().err
    assert not Path("m").exists()


@pytest.mark.parametrize(
    ("size", "said"), [(5, "sends more than the 5 bytes"), (99999, "is not the file that was rel")]
)
def test_sizes_that_lie(size: int, said: str, root: Path, capsys: Say) -> None:
    tampered(root, file(size=size))
    assert pull(root, "-t", "onnx") == 6
    assert said in capsys.readouterr().err
    assert not Path("m").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (file(path="../../../evil"), "evil"),
        (file(path="/etc/evil"), "evil"),
        (file(path="SUB/part.bin"), "stands twice"),
        (file(1, path="model.bin"), "stands twice"),
        (file(size=-1), "has no size"),
        (lambda content: content.update(schema=2), "not a release.json of schema 1"),
        (lambda content: content.update(version="1.0.1"), "is m 1.0.1"),
        (lambda content: content.update(model="n"), "is n 1.0.0"),
        (lambda content: content.clear(), "no release.json that can be used"),
    ],
)
def test_documents_that_lie(
    change: Callable[[dict[str, Any]], None], said: str, root: Path, capsys: Say
) -> None:
    path = root / "m/1.0.0" / RELEASE
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    assert pull(root, "-t", "onnx") == 6
    assert said in capsys.readouterr().err
    assert left() == []
    assert not (root.parent / "evil").exists()


def test_another_release_than_the_index_names(root: Path, capsys: Say) -> None:
    path = root / "m/1.0.0" / RELEASE
    path.write_text(path.read_text().replace('"opset": 18', '"opset": 17'))
    assert pull(root, "-t", "onnx") == 6
    assert "m 1.0.0 is another release than the index names" in capsys.readouterr().err


def test_signatures(root: Path, capsys: Say) -> None:
    key = str(root.parent / "keys/crosscast.pub")
    assert pull(root, "-t", "onnx", "--key", key) == 0
    _, other = signing.keygen(root.parent / "other")
    assert pull(root, "-t", "onnx", "--key", str(other), "-o", "a") == 6
    tampered(root, file(sha256="0" * 64))
    assert pull(root, "-t", "onnx", "--key", key, "-o", "b") == 6
    assert "the signature is on another release" in capsys.readouterr().err
    (root / "m/1.0.0" / SIGNATURE).unlink()
    assert pull(root, "-t", "onnx", "--key", key, "-o", "c") == 6
    assert "the release is not signed" in capsys.readouterr().err
    assert left() == ["m"]


# Lock files


def test_a_lock_pins_what_a_channel_named(root: Path) -> None:
    words = ("-t", "onnx", "--lock", "crosscast.lock")
    assert pull(root, *words, model="m@stable") == 0
    publish(root, "2.0.0", b"newer")
    assert pull(root, *words, model="m@stable") == 0
    assert there() == released(root, version="1.0.0")
    assert json.loads(Path("crosscast.lock").read_bytes())["version"] == "1.0.0"
    assert left() == ["crosscast.lock", "m"]


@pytest.mark.parametrize(
    ("model", "target", "said"),
    [
        ("m@2.0.0", "onnx", "this is version 2.0.0, not 1.0.0"),
        ("m", "tflite-int8", "this is target tflite-int8, not onnx"),
    ],
)
def test_a_lock_refuses_anything_else(
    model: str, target: str, said: str, root: Path, capsys: Say
) -> None:
    assert pull(root, "-t", "onnx", "--lock", "lock") == 0
    publish(root, "2.0.0", b"newer")
    assert pull(root, "-t", target, "--lock", "lock", "-o", "other", model=model) == 6
    assert said in capsys.readouterr().err
    assert left() == ["lock", "m"]


def test_a_lock_refuses_other_bytes_of_the_same_version(root: Path, capsys: Say) -> None:
    assert pull(root, "-t", "onnx", "--lock", "lock") == 0
    tampered(root, file(sha256="0" * 64))
    assert pull(root, "-t", "onnx", "--lock", "lock", "-o", "other") == 6
    assert "lock is on something else: this is digest" in capsys.readouterr().err
    Path("lock").write_text("{")
    assert pull(root, "-t", "onnx", "--lock", "lock") == 2
    assert "lock: no lock file that can be used" in capsys.readouterr().err


# The disk and the way there


def test_a_full_disk_is_told(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(work, "bring_target", full)
    assert pull(root, "-t", "onnx") == StageError.exit_code
    assert "no space left on the disk" in capsys.readouterr().err
    assert not Path("m").exists()


class Flaky(Directory):
    """Breaks off after so many bytes, as often as it is told."""

    def __init__(self, root: Path, breaks: list[int]) -> None:
        super().__init__(root)
        self.breaks = breaks
        self.starts: list[int] = []

    @contextmanager
    def open(
        self, *, model: str, version: str, entry: Entry, start: int = 0
    ) -> Iterator[Iterator[bytes]]:
        self.starts.append(start)
        with super().open(model=model, version=version, entry=entry, start=start) as chunks:
            data = b"".join(chunks)
        yield self._broken(data)

    def _broken(self, data: bytes) -> Iterator[bytes]:
        if not self.breaks:
            yield data
            return
        yield data[: self.breaks.pop(0)]
        raise web.Transient("it broke", wait=3)


def brought(root: Path, breaks: list[int], path: Path, waits: list[float]) -> tuple[int, list[int]]:
    registry = Flaky(root, breaks)
    release = shipped.made(root.parent / "again", data=DATA, targets=("onnx", "tflite-int8"))
    entry = next(iter(release.entries("onnx")))
    number = bring(
        registry,
        model="m",
        version="1.0.0",
        entry=entry,
        path=path,
        tell=lambda text: None,
        sleep=waits.append,
    )
    return number, registry.starts


def test_a_broken_download_goes_on_where_it_broke(root: Path) -> None:
    waits: list[float] = []
    number, starts = brought(root, [1000, 500], Path("x"), waits)
    assert Path("x").read_bytes() == b"onnx" + DATA
    assert (number, starts, waits) == (len(DATA) + 4, [0, 1000, 1500], [3, 3])
    assert brought(root, [], Path("x"), waits) == (0, [])


def test_a_download_that_breaks_all_the_time_is_kept_for_the_next(root: Path) -> None:
    with pytest.raises(RegistryError, match=r"model.bin: it broke \(5 tries\)"):
        brought(root, [10] * 9, Path("x"), [])
    assert Path("x").stat().st_size == 50
    assert brought(root, [], Path("x"), [])[1] == [50]


def test_a_directory_that_cannot_be_written(root: Path) -> None:
    Path("file").touch()
    found = work.find(f"{root}/m")
    choice = work.choose(found, device=None, target="onnx")
    with pytest.raises(StageError, match="cannot be written"):
        work.pull(found, choice, out=Path("file/m"), lock=None, tell=print)
    with pytest.raises(ConfigError, match="one of --device and --target"):
        work.choose(found, device=None, target=None)
