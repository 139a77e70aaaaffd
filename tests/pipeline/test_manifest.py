from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import ConfigError, ParityError


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    entry = {"path": "model.onnx", "sha256": file_sha256(model), "size": 5}
    manifest = {**dict.fromkeys(manifests.KEYS, ""), "schema": 1, "files": [entry]}
    manifests.write_json(tmp_path / "manifest.json", manifest)
    return tmp_path


def rewrite(artifact: Path, **changes: Any) -> dict[str, Any]:
    manifest = manifests.read(artifact)
    manifest["files"][0] |= changes
    return manifest


def test_untouched_files_pass(artifact: Path) -> None:
    manifests.check_files(artifact, manifests.read(artifact))


def test_a_changed_byte_is_refused(artifact: Path) -> None:
    (artifact / "model.onnx").write_bytes(b"modeL")
    with pytest.raises(ParityError, match="not the file that was proven"):
        manifests.check_files(artifact, manifests.read(artifact))


def test_a_missing_file_is_refused(artifact: Path) -> None:
    (artifact / "model.onnx").unlink()
    with pytest.raises(ParityError, match="missing"):
        manifests.check_files(artifact, manifests.read(artifact))


def test_a_link_is_refused(artifact: Path, tmp_path: Path) -> None:
    (artifact / "model.onnx").rename(tmp_path / "elsewhere")
    (artifact / "model.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ParityError, match="missing"):
        manifests.check_files(artifact, manifests.read(artifact))


@pytest.mark.parametrize("path", ["/etc/passwd", "../model.onnx", "a/../../b", "a\\..\\b"])
def test_paths_that_leave_the_artifact_are_refused(artifact: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="leaves the artifact's directory"):
        manifests.check_files(artifact, rewrite(artifact, path=path))


def test_a_directory_without_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not an artifact: it has no manifest\.json"):
        manifests.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', "null"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=r"manifest\.json: "):
        manifests.read(tmp_path)


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    manifests.write_json(tmp_path / "a", {"x": 1, "y": [2]})
    manifests.write_json(tmp_path / "b", json.loads('{"y": [2], "x": 1}'))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_manifest_that_lacks_something_says_what(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema": 1, "files": []}')
    with pytest.raises(ConfigError, match="incomplete: it has no model, version"):
        manifests.read(tmp_path)
