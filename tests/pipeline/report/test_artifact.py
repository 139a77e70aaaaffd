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


def test_what_operators_compute_in_and_which_are_wider() -> None:
    wide = [{"name": f"conv{index}", "share": 0.04, "op": "Conv"} for index in range(5)]
    held = {
        "asked": "int8",
        "delivered": "int8",
        "weights": {"int8": 9},
        "ops": {"fp32": 5, "int8": 44},
        "fell_back": wide,
    }
    assert describe(MANIFEST | {"precision": held}).splitlines()[2:5] == [
        "weights: int8 (9 bytes int8)",
        "compute: 5 fp32, 44 int8",
        "wider:   conv0 (4.0 %), conv1 (4.0 %), conv2 (4.0 %) and 2 more, than int8",
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


def test_what_was_found_of_the_task_is_told_with_its_interval() -> None:
    task = {
        "status": "passed",
        "metric": "top-1",
        "output": None,
        "samples": 700,
        "source": 0.92429,
        "artifact": 0.92,
        "drop": 0.00429,
        "low": -0.0039,
        "high": 0.0125,
        "method": "Tango's score interval",
        "confidence": 0.95,
        "max_drop": 0.02,
        "share": True,
        "needed": None,
        "sha256": "cd" * 32,
    }
    verdict = {"status": "passed", "reason": "", "task": task}
    assert describe(MANIFEST | {"verdict": verdict}).splitlines()[2] == (
        "task:    passed: top-1 is 92 % on 700 labelled samples, the source's 92.4 %: a drop of"
        " 0.429 % (-0.39 % to 1.25 % with 95 % confidence), at most 2 % is accepted; Tango's score"
        f" interval, samples sha256:{'cd' * 32}"
    )
