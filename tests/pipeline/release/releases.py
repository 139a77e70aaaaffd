"""Releases made up for tests: a directory as `compose` writes it, without a build."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.release.document import RELEASE, Release

TENSOR = {"name": "x", "shape": ["batch", 3], "dtype": "float32", "layout": None}
OUTPUT = {"name": "y", "shape": ["batch", 5], "dtype": "float32", "layout": None}
BUILD = {
    "commit": {"sha1": "0" * 40, "dirty": False},
    "seconds": 1.0,
    "started": "2026-01-01T00:00:00Z",
    "created": "2026-01-01T00:00:01Z",
    "crosscast": "0.1.0",
    "python": "3.11.2",
    "platform": "Linux x86_64",
}


def artifact(*, files: Mapping[str, bytes], snr_db: Any = 40.0, **changes: Any) -> dict[str, Any]:
    """An artifact as release.json tells of it."""
    worst = {"y": {"numbers": {"snr_db": snr_db, "agreement": None}}}
    return {
        "format": "onnx",
        "files": [
            {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for path, data in files.items()
        ],
        "inputs": [TENSOR],
        "outputs": [OUTPUT],
        "dims": {"batch": [1, 4]},
        "labels": None,
        "preprocessing": {},
        "options": {"opset": 18},
        "precision": {"delivered": "fp32"},
        "verdict": {"status": "passed", "reason": "", "worst": worst},
        "tools": {"onnx": "1.18.0"},
        **changes,
    }


def content(
    artifacts: Mapping[str, Any], *, model: str = "m", version: str = "1.0.0", **build: Any
) -> dict[str, Any]:
    """A release.json."""
    return {
        "schema": 1,
        "model": model,
        "version": version,
        "config": {"sha256": "c" * 64},
        "source": {"kind": "onnx", "files": {"onnx": "d" * 64}},
        "artifacts": dict(artifacts),
        "build": {**BUILD, **build},
    }


def write(
    folder: Path,
    *,
    version: str = "1.0.0",
    data: bytes = b"weights",
    targets: tuple[str, ...] = ("onnx",),
    **build: Any,
) -> Release:
    """A release's directory: each target has a model of these bytes and a manifest."""
    files = {"model.onnx": data, "manifest.json": b"{}\n", "sub/part.bin": data * 3}
    for target in targets:
        for path, held in files.items():
            (folder / target / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / target / path).write_bytes(held)
    told = content(dict.fromkeys(targets, artifact(files=files)), version=version, **build)
    (folder / RELEASE).write_text(json.dumps(told))
    return Release(content=told)


def deliver(folder: Path, *, data: bytes = b"weights", **changes: Any) -> None:
    """An artifact as a build leaves it."""
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / "sub/part").write_bytes(b"more")
    rows = {"worst": {}, "cases": [{"case": "0"}]}
    manifest = {
        **dict.fromkeys((*manifests.KEYS, "io", "calibration"), ""),
        **{
            "schema": 1,
            "format": "onnx",
            "labels": None,
            "preprocessing": {},
            "options": {},
            "precision": {},
            "inputs": [TENSOR],
            "outputs": [OUTPUT],
            "dims": {"batch": [1, 4]},
            "tools": {},
        },
        "source": {"kind": "onnx", "files": {"onnx": "d" * 64}},
        "verdict": {"status": "passed", "reason": "fine", **rows},
        "allow_unverified": "",
        **changes,
    }
    manifests.write_json(folder / "manifest.json", manifest)
