"""Releases where they are: found by their names, their files brought and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from releases import write

from crosscast.pipeline.errors import ConfigError, CrosscastError, RegistryError
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.document import RELEASE
from crosscast.pipeline.release.located import Located, find
from crosscast.pipeline.release.registries.directory import Directory


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A registry with two versions of a model, the lower one of which is stable."""
    registry = Directory(tmp_path / "shelf")
    for version in ("1.0.0", "1.10.0"):
        release = write(tmp_path / version, version=version, data=version.encode())
        registry.publish(folder=tmp_path / version, release=release)
        digest = release.digest
        channels.update(registry, "m", lambda shelf, v=version, d=digest: shelf.add(v, d))
    channels.promote(registry, model="m", name="1.0.0", channel="stable")
    return registry.root


@pytest.mark.parametrize(
    ("name", "version"),
    [("m", "1.10.0"), ("m@1.0.0", "1.0.0"), ("m@stable", "1.0.0"), ("{}/m@1.10.0", "1.10.0")],
)
def test_a_release_is_found_by_its_name(shelf: Path, name: str, version: str) -> None:
    assert find(name.format(shelf), registry=str(shelf)).release.version == version


def test_a_release_is_found_by_its_directory(shelf: Path, tmp_path: Path) -> None:
    found = find(str(shelf / "m/1.0.0"), registry="nowhere")
    assert found.release.version == "1.0.0"
    assert found.fetch("onnx", tmp_path / "unused") == shelf / "m/1.0.0/onnx"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("m@2.0.0", RegistryError, "has no version '2.0.0'"),
        ("m@beta", RegistryError, "has no channel 'beta'"),
        ("other", RegistryError, "has no model 'other'"),
        ("a b", ConfigError, "names no release"),
    ],
)
def test_what_is_not_there_is_told(
    shelf: Path, name: str, kind: type[CrosscastError], said: str
) -> None:
    with pytest.raises(kind) as refused:
        find(name, registry=str(shelf))
    assert said in str(refused.value)


def test_files_in_a_directory_are_checked_where_they_are(shelf: Path, tmp_path: Path) -> None:
    artifact = shelf / "m/1.0.0/onnx"
    found = find(str(artifact.parent), registry="nowhere")
    (artifact / "model.onnx").rename(tmp_path / "model.onnx")
    with pytest.raises(RegistryError, match=r"onnx/model\.onnx: missing"):
        found.fetch("onnx", tmp_path)
    (artifact / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(RegistryError, match=r"onnx/model\.onnx: missing"):
        found.fetch("onnx", tmp_path)
    (artifact / "model.onnx").unlink()
    (artifact / "model.onnx").write_bytes(b"1.0.1")
    with pytest.raises(RegistryError, match=r"onnx/model\.onnx: not the file that was released"):
        found.fetch("onnx", tmp_path)


def test_files_are_brought(shelf: Path, tmp_path: Path) -> None:
    found = Located.of(Directory(shelf), "m", "1.0.0", where="shelf")
    assert found.fetch("onnx", tmp_path / "here") == tmp_path / "here"
    assert (tmp_path / "here/model.onnx").read_bytes() == b"1.0.0"
    assert (tmp_path / "here/sub/part.bin").read_bytes() == b"1.0.0" * 3


@pytest.mark.parametrize("content", [b"1.0.1", b"1.0", b"1.0.0 and more", b""])
def test_a_file_that_is_not_the_published_one_is_refused(
    shelf: Path, tmp_path: Path, content: bytes
) -> None:
    (shelf / "m/1.0.0/onnx/model.onnx").write_bytes(content)
    found = Located.of(Directory(shelf), "m", "1.0.0", where="shelf")
    with pytest.raises(
        RegistryError, match=r"onnx/model\.onnx.* (not the file that was released|sends more)"
    ):
        found.fetch("onnx", tmp_path / "here")


def test_a_release_under_another_name_is_refused(shelf: Path) -> None:
    place = shelf / "m/1.0.0" / RELEASE
    told = json.loads(place.read_bytes())
    place.write_text(json.dumps({**told, "version": "1.10.0"}))
    with pytest.raises(RegistryError, match=r"its release\.json is of m 1\.10\.0"):
        Located.of(Directory(shelf), "m", "1.0.0", where="shelf")
