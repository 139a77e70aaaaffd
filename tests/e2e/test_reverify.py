"""A published release proven again, from a directory and a web server, in real runtimes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import servers
import yaml
from cli import crosscast
from mutate import opened

from crosscast.pipeline import cli, manifest
from crosscast.pipeline.digest import file_sha256, measure
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.document import RELEASE, parse
from crosscast.pipeline.release.registries.directory import Directory

pytestmark = pytest.mark.e2e

CONFIGS = Path(__file__).parents[2] / "configs"
TARGETS = ("onnx", "tflite-fp32")
Say = pytest.CaptureFixture[str]


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A registry with a release of the real silero-vad, as a directory and as a web server."""

    folder: Path
    http: str
    key: Path

    @property
    def release(self) -> Path:
        return next((self.folder / "silero-vad").glob("*/release.json")).parent


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, overlays: Path) -> Iterator[Shelf]:
    root = tmp_path_factory.mktemp("reverify")
    (root / "cache").mkdir()
    (root / "cache/overlays").symlink_to(overlays)
    text = (CONFIGS / "silero-vad.yaml").read_text().replace("zoo/", f"{CONFIGS}/zoo/")
    config = {**yaml.safe_load(text), "targets": dict.fromkeys(TARGETS)}
    kiosk = {"summary": "Ours", "like": "pixel-8", "targets": ["tflite-fp32"]}
    config["release"] = {"channel": "stable", "devices": {"kiosk": kiosk}}
    (root / "config.yaml").write_text(json.dumps(config))
    for words in (
        ("keygen", "-o", root / "keys"),
        (
            "release",
            root / "config.yaml",
            "-o",
            root / "shelf",
            "--key",
            root / "keys/crosscast.key",
        ),
    ):
        done = crosscast(*words, cache=root / "cache")
        assert done.returncode == 0, done.stdout + done.stderr
    with servers.http_server(root / "shelf", root / "log.txt") as http:
        yield Shelf(folder=root / "shelf", http=http, key=root / "keys/crosscast.pub")
    shutil.rmtree(root)


@pytest.fixture
def mine(shelf: Shelf, tmp_path: Path) -> Shelf:
    """One whose files may be changed."""
    shutil.copytree(shelf.folder, tmp_path / "shelf")
    return Shelf(folder=tmp_path / "shelf", http=shelf.http, key=shelf.key)


@pytest.mark.parametrize("place", ["folder", "http"])
def test_what_was_published_is_proven_again(place: str, shelf: Shelf, capsys: Say) -> None:
    name = f"{getattr(shelf, place)}/silero-vad@stable"
    assert cli.run(["verify", name, "--key", str(shelf.key)]) == 0, capsys.readouterr()
    lines = capsys.readouterr().out.splitlines()
    assert "signature right" in lines[0]
    assert [line.split() for line in lines[1:3]] == [
        [target, "passed:", "as", "published"] for target in TARGETS
    ]
    assert lines[3].endswith(": 2 of 2 targets proven")


@pytest.mark.parametrize("place", ["folder", "http"])
def test_a_corrupted_file_is_refused_by_its_digest(place: str, mine: Shelf, capsys: Say) -> None:
    path = mine.release / "onnx/model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with servers.http_server(mine.folder, mine.folder.parent / "log.txt") as http:
        url = {"folder": str(mine.folder), "http": http}[place]
        assert cli.run(["verify", f"{url}/silero-vad@stable"]) == 6
    said = capsys.readouterr()
    assert "onnx/model.onnx of silero-vad" in said.err
    assert "is not the file that was released" in said.err
    assert "proven" not in said.out


def test_a_device_of_the_config_is_known_to_who_pulls(shelf: Shelf, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    words = [f"{shelf.http}/silero-vad", "--device", "kiosk", "--key", str(shelf.key), "-o", out]
    assert cli.run(["pull", *words]) == 0
    assert manifest.read(tmp_path / "out")["target"] == "tflite-fp32"


def falsified(mine: Shelf, root: Path) -> Path:
    """A registry with a release that was wrong before it was published: its digests are right."""
    release = root / "wrong"
    shutil.copytree(mine.release, release)
    artifact = release / "onnx"
    for path in artifact.iterdir():
        path.chmod(0o644)
    file = opened(artifact)
    file.scale_output(1.1)
    file.save(artifact)
    told = manifest.read(artifact)
    for entry in told["files"]:
        path = artifact / entry["path"]
        entry.update(sha256=file_sha256(path), size=path.stat().st_size)
    manifest.write_json(artifact / manifest.MANIFEST, told)
    content = json.loads((release / RELEASE).read_bytes())
    content["artifacts"]["onnx"]["files"] = [
        {"path": path, "sha256": entry.sha256, "size": entry.size}
        for path, entry in measure(artifact).items()
    ]
    manifest.write_json(release / RELEASE, content)
    made = parse((release / RELEASE).read_bytes(), where="wrong")
    registry = Directory(root / "registry")
    registry.publish(folder=release, release=made)
    channels.update(registry, made.model, lambda shelf: shelf.add(made.version, made.digest))
    return registry.root


def test_what_computes_something_else_is_not_proven(
    mine: Shelf, tmp_path: Path, capsys: Say
) -> None:
    registry = falsified(mine, tmp_path)
    assert cli.run(["verify", f"{registry}/silero-vad"]) == 4
    said = capsys.readouterr().out
    assert "onnx                 failed (published: passed): worst SNR of 'probability' " in said
    assert "  output 'probability', case " in said
    assert "tflite-fp32          passed: as published" in said
    assert "1 of 2 targets proven, 1 failed" in said


def test_a_runtime_that_is_not_installed_is_told(shelf: Shelf, tmp_path: Path) -> None:
    """LiteRT is hidden behind a package of its name that cannot be imported."""
    hidden = tmp_path / "hidden/ai_edge_litert"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('no LiteRT', name=__name__)\n")
    path = os.pathsep.join([str(hidden.parent), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        done = crosscast("verify", f"{shelf.folder}/silero-vad", cache=tmp_path / "cache")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "onnx                 passed: as published" in done.stdout
    assert "tflite-fp32          runtime missing (published: passed)" in done.stdout
    assert "1 of 2 targets proven, 1 runtime missing" in done.stdout
