"""release.json: its identity, and what is not one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from releases import artifact, content

from crosscast.pipeline.errors import RegistryError
from crosscast.pipeline.release.document import KEYS, Release, parse


def told(**file: Any) -> dict[str, Any]:
    entry = {"path": "model.onnx", "sha256": "a" * 64, "size": 1, **file}
    return content({"onnx": artifact(files={}) | {"files": [entry]}})


def test_how_it_was_built_is_not_its_identity() -> None:
    one, other = Release(content=told()), Release(content={**told(), "build": {"seconds": 9}})
    assert one.digest == other.digest
    assert one.digest != Release(content=told(size=2)).digest


def test_what_was_written_is_read() -> None:
    release = parse(json.dumps(told()).encode(), where="x")
    assert (release.model, release.version) == ("m", "1.0.0")
    assert [entry.path for entry in release.entries("onnx")] == ["onnx/model.onnx"]


@pytest.mark.parametrize(
    "file",
    [
        {"path": "../../etc/passwd"},
        {"path": "/etc/passwd"},
        {"path": "a//b"},
        {"path": "./b"},
        {"path": "a\\..\\b"},
        {"path": "a\0b"},
        {"path": ""},
        {"sha256": "short"},
        {"size": -1},
        {"size": "1"},
        {"size": True},
        {"size": None},
    ],
)
def test_an_entry_that_is_not_plain_is_refused(file: dict[str, Any]) -> None:
    with pytest.raises(RegistryError, match=r"there/release\.json: no release\.json"):
        parse(json.dumps(told(**file)).encode(), where="there/release.json")


@pytest.mark.parametrize("target", ["..", "a/../..", "", "."])
def test_a_target_that_leaves_is_refused(target: str) -> None:
    files = {"model.onnx": b"x"}
    with pytest.raises(RegistryError, match="no release"):
        parse(json.dumps(content({target: artifact(files=files)})).encode(), where="x")


@pytest.mark.parametrize(
    "changes",
    [
        *({key: None} for key in KEYS),
        {"verdict": {}},
        {"inputs": [{"name": "x"}]},
        {"outputs": [5]},
        {"files": 5},
    ],
)
def test_an_artifact_that_is_incomplete_is_refused(changes: dict[str, Any]) -> None:
    files = {"model.onnx": b"x"}
    told_ = content({"onnx": artifact(files=files) | changes})
    with pytest.raises(RegistryError, match="x: no"):
        parse(json.dumps(told_).encode(), where="x")


def test_files_that_some_disks_take_for_one_are_refused() -> None:
    files = {"model.onnx": b"x", "Model.onnx": b"y"}
    with pytest.raises(RegistryError, match="stands twice"):
        parse(json.dumps(content({"onnx": artifact(files=files)})).encode(), where="x")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{}", b"{" * 5000, b'{"schema": 2, "artifacts": {}}', b"\xff"],
)
def test_what_is_no_release_is_refused(data: bytes) -> None:
    with pytest.raises(RegistryError, match=r"release\.json"):
        parse(data, where="x")


def test_another_schema_is_refused() -> None:
    with pytest.raises(RegistryError, match=r"not a release\.json of schema 1"):
        parse(json.dumps({**told(), "schema": 2}).encode(), where="x")
