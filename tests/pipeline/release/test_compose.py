"""release.json: what it tells of a build, and when it is the same."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from releases import deliver

from crosscast.pipeline.config.load import load
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import ParityError
from crosscast.pipeline.release.compose import compose, config_digest, environment
from crosscast.pipeline.release.document import RELEASE, Release, parse

CONFIG = """\
model: m
version: 1.0.0
source: {onnx: m.onnx}
targets: {onnx: {}, ort: {}}
"""
BUILD = {"commit": None, "crosscast": "0.1.0", "python": "3.11.2", "platform": "x"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").touch()
    (tmp_path / "m.yaml").write_text(CONFIG)
    return tmp_path / "m.yaml"


def composed(config: Path, folder: Path, **build: Any) -> Release:
    for target in ("onnx", "ort"):
        deliver(folder / target)
    digest = config_digest(config)
    return compose(folder, load(config), config_sha256=digest, build={**BUILD, **build})


def test_a_release_tells_of_every_file(config: Path, tmp_path: Path) -> None:
    release = composed(config, tmp_path / "r")
    written = (tmp_path / "r" / RELEASE).read_bytes()
    assert parse(written, where="x").digest == release.digest
    entries = {entry.path: entry for entry in release.entries()}
    assert sorted(entries) == sorted(
        f"{target}/{name}"
        for target in ("onnx", "ort")
        for name in ("manifest.json", "model.onnx", "sub/part")
    )
    for path, entry in entries.items():
        assert entry.sha256 == file_sha256(tmp_path / "r" / path)
        assert entry.size == (tmp_path / "r" / path).stat().st_size


def test_devices_of_the_config_come_with_it(config: Path, tmp_path: Path) -> None:
    without = composed(config, tmp_path / "r")
    assert "devices" not in without.content
    config.write_text(CONFIG + "release: {devices: {kiosk: {targets: [ort]}}}\n")
    release = composed(config, tmp_path / "r")
    assert release.content["devices"] == {
        "kiosk": {"summary": "", "targets": ["ort"], "limits": {}}
    }
    assert release.digest != without.digest


def test_it_has_verdicts_source_and_config(config: Path, tmp_path: Path) -> None:
    content = composed(config, tmp_path / "r").content
    assert content["artifacts"]["ort"]["verdict"]["status"] == "passed"
    assert "cases" not in content["artifacts"]["ort"]["verdict"]
    assert content["source"] == {"kind": "onnx", "files": {"onnx": "d" * 64}}
    assert content["config"] == {"sha256": config_digest(config)}


def test_when_it_was_built_is_not_its_identity(config: Path, tmp_path: Path) -> None:
    one, other = (composed(config, tmp_path / str(n), seconds=n) for n in (1, 2))
    assert one.digest == other.digest
    assert one.content != other.content


@pytest.mark.parametrize(
    "verdict", [("failed", ""), ("failed", "allowed"), ("unverified", ""), ("odd", "allowed")]
)
def test_what_is_not_proven_is_not_released(
    config: Path, tmp_path: Path, verdict: tuple[str, str]
) -> None:
    status, allowed = verdict
    deliver(tmp_path / "r/onnx")
    told = {"status": status, "reason": "why"}
    deliver(tmp_path / "r/ort", verdict=told, allow_unverified=allowed)
    with pytest.raises(ParityError, match=f"ort: {status}: why"):
        compose(tmp_path / "r", load(config), config_sha256="", build=BUILD)
    assert not (tmp_path / "r" / RELEASE).exists()


def test_what_the_config_allows_may_be_unverified(config: Path, tmp_path: Path) -> None:
    deliver(tmp_path / "r/onnx")
    told = {"status": "unverified", "reason": "no runtime"}
    deliver(tmp_path / "r/ort", verdict=told, allow_unverified="checked on a Mac")
    release = compose(tmp_path / "r", load(config), config_sha256="", build=BUILD)
    assert release.content["artifacts"]["ort"]["allow_unverified"] == "checked on a Mac"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("model: m", "# a comment\nmodel: m", True),
        ("version: 1.0.0", "version: 2.0.0", True),
        ("targets:", "release: {channel: beta}\ntargets:", True),
        ("m.onnx", "'${NAME:-m.onnx}'", False),
        ("onnx: {}", "onnx: {opset: 18}", False),
    ],
)
def test_a_config_is_what_it_says_of_the_model(
    config: Path, old: str, new: str, same: bool
) -> None:
    before = config_digest(config)
    config.write_text(CONFIG.replace(old, new, 1))
    assert (config_digest(config) == before) == same


def test_what_a_variable_stands_for_is_not_in_it(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(CONFIG.replace("m.onnx", "'${PLACE}/m.onnx'"))
    digests = set()
    for place in ("/a", "/b"):
        monkeypatch.setenv("PLACE", place)
        digests.add(config_digest(config))
    assert len(digests) == 1


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_configs_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment(tmp_path)["commit"] is None
    (tmp_path / "file").write_text("one")
    for words in (("init", "-q"), ("add", "file"), ("commit", "-qm", "x")):
        git(tmp_path, *words)
    commit = environment(tmp_path)["commit"]
    assert len(commit["sha1"]) == 40
    assert not commit["dirty"]
    (tmp_path / "file").write_text("two")
    assert environment(tmp_path)["commit"] == {**commit, "dirty": True}


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    assert environment(tmp_path)["commit"] is None
    assert json.dumps(environment(tmp_path))
