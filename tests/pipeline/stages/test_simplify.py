"""Simplify keeps the original, and says why, whenever the simplified model is not the same one."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.stages import simplify

onnx = pytest.importorskip("onnx")
onnxslim = pytest.importorskip("onnxslim")


def a_model(*, opset: int = 18, name: str = "x", nodes: int = 2) -> Any:
    """Relu after Relu from x to y, with a dynamic first dimension."""
    values = [name, *(f"t{i}" for i in range(nodes - 1)), "y"]
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Relu", [source], [target])
                for source, target in pairwise(values)
            ],
            "g",
            [onnx.helper.make_tensor_value_info(name, 1, ["batch", 3])],
            [onnx.helper.make_tensor_value_info("y", 1, ["batch", 3])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=8,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "in"
    tree.mkdir()
    (tmp_path / "out").mkdir()
    (tree / "model.onnx").write_bytes(a_model().SerializeToString())
    (tree / "notes.json").write_text('{"exporter": "it"}\n')
    return tree


def run(tree: Path) -> tuple[Any, dict[str, Any]]:
    out = tree.parent / "out"
    result = simplify.run(inputs={"model": tree}, options={}, out=out)
    notes = json.loads((out / "notes.json").read_text())
    assert {key: notes[key] for key in result.notes} == result.notes
    return onnx.load(out / "model.onnx"), notes


def test_writes_the_simplified_model(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxslim, "slim", lambda _model: a_model(nodes=1))
    model, notes = run(tree)
    assert len(model.graph.node) == 1
    assert notes == {"exporter": "it"}


def broken() -> Any:
    model = a_model(nodes=1)
    model.graph.node[0].input[0] = "nothing"
    return model


def other() -> Any:
    model = a_model(nodes=1)
    model.graph.node[0].op_type = "Neg"
    return model


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (lambda: a_model(opset=17), "onnxslim changed the opset"),
        (lambda: a_model(name="renamed"), "onnxslim changed the inputs or outputs"),
        (broken, "the simplified model is not valid ONNX: Nodes in a graph must be topologically"),
        (lambda: 1 / 0, "onnxslim failed: ZeroDivisionError: division by zero"),
        (lambda: exit(3), "onnxslim failed: SystemExit: 3"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "onnxslim crashed: SIGSEGV"),
        (lambda: os._exit(3), "onnxslim crashed: exit 3"),
        (other, "onnxslim changed what output 'y' is"),
    ],
)
def test_keeps_the_original(
    tree: Path, monkeypatch: pytest.MonkeyPatch, result: Any, why: str
) -> None:
    monkeypatch.setattr(onnxslim, "slim", lambda _model: result())
    monkeypatch.setattr(simplify, "_alone", lambda: True)
    model, notes = run(tree)
    assert model == a_model()
    assert notes["not_simplified"].startswith(why)
    assert notes["exporter"] == "it"


def test_a_changed_dynamic_dimension_counts_as_another_interface(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = a_model()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    monkeypatch.setattr(onnxslim, "slim", lambda _model: fixed)
    model, notes = run(tree)
    assert model == a_model()
    assert notes["not_simplified"] == "onnxslim changed the inputs or outputs"


def test_a_file_that_is_no_model_is_an_error(tree: Path) -> None:
    (tree / "model.onnx").write_bytes(b"\xff\xff not a model")
    with pytest.raises(StageError, match=r"model\.onnx cannot be read as an ONNX model"):
        run(tree)
