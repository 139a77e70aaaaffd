"""A release proven again: what is said of it, and the exit code. No artifact is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import shipped

from crosscast.pipeline import build, cli
from crosscast.pipeline.errors import ConfigError, ParityError, StageError, ToolchainError
from crosscast.pipeline.release import reverify, signing
from crosscast.pipeline.release.registries.directory import Directory

Say = pytest.CaptureFixture[str]
TARGETS = ("onnx", "tflite-int8", "coreml-fp16")


def verdict(snr_db: Any = 40.0, mismatch: float | None = None, **changes: Any) -> dict[str, Any]:
    numbers = {"snr_db": snr_db, "mismatch": mismatch, "agreement": None}
    return {
        "status": "passed",
        "reason": "3 real",
        "worst": {"y": {"numbers": numbers}},
        "cases": [{"case": "real 0"}],
        **changes,
    }


def row(**numbers: Any) -> dict[str, Any]:
    return {"worst": {"y": {"numbers": {"snr_db": None, **numbers}}}}


class Shelf:
    """A registry with a release of `m`, and what is found of each of its targets."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.url = root, str(root / "shelf")
        self.found: dict[str, dict[str, Any] | Exception] = {}
        self.ran: list[str] = []
        monkeypatch.setenv("CROSSCAST_CACHE", str(root / "cache"))
        monkeypatch.setattr(reverify, "verify_by", self._verify)
        monkeypatch.setattr(reverify, "tool_versions", lambda _: {})

    def publish(self, changes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        private, self.key = signing.keygen(self.root / "keys")
        folder = self.root / "built"
        made = shipped.made(folder, targets=TARGETS, changes=changes, key=private)
        shipped.publish(Directory(Path(self.url)), folder, made)

    def run(self, *words: str, name: str = "m@stable") -> int:
        return cli.run(["verify", f"{self.url}/{name}", *words])

    def _verify(self, _: object, artifact: Path, *, scope: str, **__: Any) -> dict[str, Any]:
        target = scope.rpartition("/")[2]
        self.ran.append(target)
        assert (artifact / "model.bin").read_bytes() == target.encode() + b"weights"
        found = self.found.get(target, verdict())
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(tmp_path, monkeypatch)


def test_every_target_of_a_release_is_proven_again(shelf: Shelf, capsys: Say) -> None:
    shelf.publish()
    for name in ("m", "m@1.0.0", "m@stable", "m/1.0.0"):
        shelf.ran.clear()
        assert shelf.run(name=name) == 0
        lines = capsys.readouterr().out.splitlines()
        assert shelf.ran == list(TARGETS)
        assert lines[0].startswith("m 1.0.0 of ")
        assert lines[0].endswith("signature not checked: no --key")
        assert lines[1:] == [
            "onnx                 passed: as published",
            "tflite-int8          passed: as published",
            "coreml-fp16          passed: as published",
            "m 1.0.0: 3 of 3 targets proven",
        ]
    assert list((shelf.root / "cache/tmp").iterdir()) == []


def test_a_model_is_looked_for_in_the_registry_that_is_given(shelf: Shelf) -> None:
    shelf.publish()
    assert cli.run(["verify", "m@stable", "--registry", shelf.url]) == 0
    assert cli.run(["verify", "m", "--registry", shelf.url]) == 0
    assert cli.run(["verify", "m", "--registry", f"file://{shelf.url}"]) == 0
    assert cli.run(["verify", "m@beta", "--registry", shelf.url]) == 6


def test_targets_can_be_chosen(shelf: Shelf, capsys: Say) -> None:
    shelf.publish()
    assert shelf.run("-t", "coreml-fp16", "-t", "onnx") == 0
    assert shelf.ran == ["onnx", "coreml-fp16"]
    assert shelf.run("-t", "onxx") == 6
    assert "m 1.0.0 has no target 'onxx'" in capsys.readouterr().err


def test_numbers_and_runtimes_that_have_changed_are_told(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    versions = {"onnxruntime": "1.24.1", "onnx": "1.18.0", "numpy": "2.4"}
    monkeypatch.setattr(reverify, "tool_versions", lambda _: versions)
    shelf.publish({"onnx": {"tools": {"onnxruntime": "1.20.0", "onnx": "1.18.0", "torch": "2"}}})
    shelf.found = {"onnx": verdict(snr_db=41.6)}
    assert shelf.run("-t", "onnx") == 0
    said = capsys.readouterr().out.splitlines()[1].split(maxsplit=1)
    told = "worst SNR of 'y' 40.0 -> 41.6 dB (onnxruntime 1.20.0 -> 1.24.1)"
    assert said == ["onnx", f"passed: {told}"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (row(mismatch=0.0), verdict(None, 0.02), "'y' 0 -> 0.02 unequal"),
        (row(mismatch=0.02), verdict(None, 0.02), "as published"),
        ({"worst": {}}, verdict(None, 0.02), "as published"),
        (row(snr_db="inf"), verdict(130.0), "as published"),
        (row(snr_db="inf"), verdict(99.0), "worst SNR of 'y' over 100 -> 99.0 dB"),
    ],
)
def test_what_counts_as_another_number(
    before: dict[str, Any], after: dict[str, Any], said: str, shelf: Shelf, capsys: Say
) -> None:
    shelf.publish({"onnx": {"verdict": {"status": "passed", "reason": "", **before}}})
    shelf.found = {"onnx": after}
    assert shelf.run("-t", "onnx") == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(f"passed: {said}")


FAILED = verdict(12.0, status="failed", reason="output 'y': 12 dB\ntry more")
UNVERIFIED = verdict(status="unverified", reason="no such op", worst={})


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (
            FAILED,
            4,
            "failed (published: passed): worst SNR of 'y' 40.0 -> 12.0 dB\n"
            "  output 'y': 12 dB\n  try more\n",
        ),
        (UNVERIFIED, 4, "unverified (published: passed)\n  no such op\n"),
        (ParityError("not the file"), 4, "failed (published: passed)\n  not the file\n"),
        (ConfigError("no manifest"), 4, "failed (published: passed)\n  no manifest\n"),
        (
            ToolchainError("no onnxruntime", fix="pip install it"),
            3,
            "runtime missing (published: passed)\n  no onnxruntime\n    fix: pip install it\n",
        ),
        (StageError("it crashed"), 1, "error (published: passed)\n  it crashed\n"),
    ],
)
def test_what_was_not_proven_is_told_and_the_others_are_judged(
    found: Any, code: int, said: str, shelf: Shelf, capsys: Say
) -> None:
    shelf.publish()
    shelf.found = {"onnx": found}
    assert shelf.run() == code
    assert shelf.ran == list(TARGETS)
    printed = capsys.readouterr().out
    assert f"onnx                 {said}" in printed
    status = said.split(" (")[0]
    assert printed.endswith(f"m 1.0.0: 2 of 3 targets proven, 1 {status}\n")


def test_an_artifact_of_another_target_is_not_judged_as_that(shelf: Shelf, capsys: Say) -> None:
    folder = shelf.root / "built"
    made = shipped.made(folder, targets=["tflite-int8"])
    path = folder / "tflite-int8/manifest.json"
    told = path.read_bytes().replace(b"tflite-int8", b"onnx")
    path.write_bytes(told)
    files = made.content["artifacts"]["tflite-int8"]["files"]
    entry = next(entry for entry in files if entry["path"] == "manifest.json")
    entry.update(sha256=hashlib.sha256(told).hexdigest(), size=len(told))
    (folder / "release.json").write_text(json.dumps(made.content))
    shipped.publish(Directory(Path(shelf.url)), folder, made)
    assert shelf.run() == 4
    assert shelf.ran == []
    assert "its manifest.json is of m 1.0.0 onnx" in capsys.readouterr().out


def test_a_manifest_that_the_release_does_not_list(shelf: Shelf, capsys: Say) -> None:
    folder = shelf.root / "built"
    made = shipped.made(folder, targets=["onnx"])
    files = made.content["artifacts"]["onnx"]["files"]
    files[:] = [entry for entry in files if entry["path"] != "manifest.json"]
    (folder / "release.json").write_text(json.dumps(made.content))
    assert cli.run(["verify", str(folder)]) == 4
    assert shelf.ran == []
    assert "release.json does not list its manifest.json" in capsys.readouterr().out


def test_a_manifest_that_cannot_be_used(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    """Nothing but its names is right in the manifests of these releases."""
    shelf.publish()
    monkeypatch.setattr(reverify, "verify_by", build.verify_by)
    assert shelf.run("-t", "onnx") == 4
    said = capsys.readouterr().out
    assert "onnx                 failed (published: passed)\n  onnx/manifest.json: cannot" in said


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (FAILED, ToolchainError("none"), 3),
        (ToolchainError("none"), StageError("crashed"), 1),
        (FAILED, UNVERIFIED, 4),
    ],
)
def test_the_worst_decides(first: Any, second: Any, code: int, shelf: Shelf) -> None:
    shelf.publish()
    shelf.found = {"onnx": first, "coreml-fp16": second}
    assert shelf.run() == code


def test_what_a_release_allows_to_be_unverified_is_no_failure(shelf: Shelf, capsys: Say) -> None:
    told = {"allow_unverified": "no Mac", "verdict": {"status": "unverified", "reason": "why"}}
    shelf.publish({"coreml-fp16": told})
    shelf.found = {"coreml-fp16": UNVERIFIED}
    assert shelf.run() == 0
    said = capsys.readouterr().out
    assert "coreml-fp16          unverified: allowed: no Mac\n  no such op\n" in said
    assert said.endswith("2 of 3 targets proven, 1 unverified\n")
    shelf.found = {"coreml-fp16": FAILED}
    assert shelf.run() == 4


@pytest.mark.parametrize("name", ["m@stable", "m/1.0.0"])
@pytest.mark.parametrize("damage", [b"other", None])
def test_nothing_of_a_damaged_release_is_run(
    name: str, damage: bytes | None, shelf: Shelf, capsys: Say
) -> None:
    shelf.publish()
    path = Path(shelf.url, "m/1.0.0/coreml-fp16/model.bin")
    path.chmod(0o644)
    path.write_bytes(damage) if damage else path.unlink()
    assert shelf.run(name=name) == 6
    assert shelf.ran == []
    assert "coreml-fp16/model.bin" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m@stable", "m/1.0.0"])
def test_a_signature_is_checked_by_a_key(name: str, shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish()
    assert shelf.run("--key", str(shelf.key), name=name) == 0
    _, other = signing.keygen(tmp_path / "others")
    shelf.ran.clear()
    assert shelf.run("--key", str(other), name=name) == 6
    Path(shelf.url, "m/1.0.0/release.dsse.json").unlink()
    assert shelf.run("--key", str(shelf.key), name=name) == 6
    assert shelf.ran == []


def test_as_json_there_is_one_object(shelf: Shelf, capsys: Say) -> None:
    shelf.publish()
    shelf.found = {"onnx": FAILED, "tflite-int8": ToolchainError("no LiteRT")}
    assert shelf.run("--json", "--key", str(shelf.key)) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["version"], told["signed"], told["code"]) == ("m", "1.0.0", True, 3)
    first, second, third = told["targets"]
    assert (first["status"], first["code"], first["published"]) == ("failed", 4, "passed")
    assert first["changes"] == ["worst SNR of 'y' 40.0 -> 12.0 dB"]
    assert first["verdict"]["worst"]["y"]["numbers"]["snr_db"] == 12.0
    assert "cases" not in first["verdict"]
    assert (second["status"], second["verdict"]) == ("runtime missing", None)
    assert third["status"] == "passed"


@pytest.mark.parametrize("words", [["-t", "onnx"], ["--key", "k.pub"]])
def test_an_artifact_alone_has_neither_targets_nor_a_signature(
    words: list[str], shelf: Shelf, capsys: Say
) -> None:
    shelf.publish()
    artifact = f"{shelf.url}/m/1.0.0/onnx"
    assert cli.run(["verify", artifact, *words]) == 2
    assert "--target and --key are of a release" in capsys.readouterr().err


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_is_neither_artifact_nor_release(
    make: Callable[[Path], None], tmp_path: Path, capsys: Say
) -> None:
    make(tmp_path / "thing")
    assert cli.run(["verify", str(tmp_path / "thing")]) == 2
    assert "not an artifact" in capsys.readouterr().err
