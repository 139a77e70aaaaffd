from __future__ import annotations

from typing import Any

from crosscast.pipeline.report.artifact import describe

TENSOR = {"name": "image", "shape": ["batch", 3, 8, 8], "dtype": "float32", "layout": "nchw"}
MANIFEST: dict[str, Any] = {
    "model": "tiny",
    "version": "1.0.0",
    "target": "onnx-int8",
    "verdict": {"status": "unverified", "reason": "no runtime"},
    "precision": {"delivered": "int8", "weights": {"int8": 900, "float32": 100}},
    "inputs": [TENSOR],
    "outputs": [{"name": "y", "shape": [], "dtype": "int64", "layout": None}],
    "files": [{"path": "model.onnx", "size": 5, "sha256": "ab" * 32}],
    "tools": {"onnx": "1.2", "torch": "3.4"},
}


def test_a_manifest_as_text() -> None:
    assert describe(MANIFEST).splitlines() == [
        "tiny 1.0.0, target onnx-int8",
        "verdict: unverified (no runtime)",
        "weights: int8 (900 bytes int8, 100 bytes float32)",
        "input:   image: float32[batch, 3, 8, 8] nchw",
        "output:  y: int64[]",
        f"file:    model.onnx  5 bytes  sha256:{'ab' * 32}",
        "tools:   onnx 1.2, torch 3.4",
    ]


def test_what_was_done_for_it_is_told() -> None:
    assert "note:    2 of 9 operators in float" in describe(
        MANIFEST | {"said": "2 of 9 operators in float"}
    )


def test_what_is_not_known_is_left_out() -> None:
    verdict = {"status": "passed", "reason": ""}
    lines = describe(MANIFEST | {"precision": None, "verdict": verdict}).splitlines()
    assert lines[1] == "verdict: passed"
    assert not any(line.startswith("weights:") for line in lines)
