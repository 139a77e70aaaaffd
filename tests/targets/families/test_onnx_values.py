"""What the constants of quantized files stand for, whatever form a quantizer gave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.parity.gains import problems
from crosscast.targets import onnx_int4, onnx_int8_dynamic
from crosscast.targets.families import onnx_runtime
from crosscast.targets.families.onnx import load, save

onnx = pytest.importorskip("onnx")
make = onnx.helper.make_node
info = onnx.helper.make_tensor_value_info

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "table": (96, 64),
    "product": (64, 70),  # a last block that is not full
    "gemm": (80, 70),
    "narrowing": (80, 24),
    "filters": (8, 1, 3, 4),
    "gates": (1, 16, 24),
    "again": (1, 16, 4),
}
"""Shapes of weights by name. Those of each are of a size that no other one has."""


@pytest.fixture
def floats(tmp_path: Path) -> Path:
    """A network with each kind of layer, as a tree."""
    nodes = [
        make("Gather", ["table", "ids"], ["e"]),
        make("MatMul", ["e", "product"], ["p"], name="p"),
        make("Gemm", ["p", "gemm"], ["g"], name="g", transB=1),
        make("MatMul", ["g", "narrowing"], ["n"], name="n"),
        make("Unsqueeze", ["n", "first"], ["s"]),
        make("LSTM", ["s", "gates", "again"], ["", "h", ""], name="l", hidden_size=4),
        make("Unsqueeze", ["h", "first"], ["image"]),
        make("Conv", ["image", "filters"], ["y"], name="c", pads=[1, 0, 1, 0]),
    ]
    arrays: dict[str, Any] = {
        name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in WEIGHTS.items()
    }
    arrays["first"] = np.int64([0])
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("ids", onnx.TensorProto.INT64, [5])],
        [info("y", onnx.TensorProto.FLOAT, [1, 8, 5, 1])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    tree = tmp_path / "floats"
    tree.mkdir()
    opset = [onnx.helper.make_opsetid("", 18)]
    save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tree)
    return tree


FORMS = [
    (onnx_int4, {}, 4),
    (onnx_int4, {"symmetric": True}, 4),
    (onnx_int8_dynamic, {}, 7),
    (onnx_int8_dynamic, {"per_channel": False}, 7),
]


@pytest.mark.parametrize(("target", "options", "count"), FORMS)
def test_every_weight_is_found_and_as_large_as_it_was(
    floats: Path, tmp_path: Path, target: Any, options: dict[str, Any], count: int
) -> None:
    target.quantize(model=floats, options=options, samples=None, out=tmp_path)
    stored = [it for it in target.weights(artifact=tmp_path) if it.steps is not None]
    assert len(stored) == count
    originals = {it.values.size: it for it in target.weights(artifact=floats)}
    for weight in stored:
        original = originals[weight.values.size]
        near = [
            np.abs(weight.values - form.reshape(weight.values.shape)).max()
            for form in original.forms
        ]
        assert min(near) < 4 * weight.steps.max()  # blocks may cut an extreme off
    assert list(problems(stored, originals.values())) == []


@pytest.mark.parametrize(("target", "options", "count"), FORMS)
def test_any_scale_that_is_wrong_is_said(
    floats: Path, tmp_path: Path, target: Any, options: dict[str, Any], count: int
) -> None:
    target.quantize(model=floats, options=options, samples=None, out=tmp_path)
    honest = load(tmp_path)
    scales = [it.name for it in honest.graph.initializer if it.name.endswith(("_scale", "_scales"))]
    assert len(scales) == count
    for name in scales:
        model = type(honest)()
        model.CopyFrom(honest)
        tensor = next(it for it in model.graph.initializer if it.name == name)
        array = onnx.numpy_helper.to_array(tensor) * np.float32(1.25)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
        save(model, tmp_path)
        (line,) = problems(*(target.weights(artifact=tree) for tree in (tmp_path, floats)))
        assert " is 1.2" in line


def test_the_audit_and_the_numbers_read_the_same_file(floats: Path) -> None:
    found = {it.name: it.values.shape for it in onnx_runtime.weights(artifact=floats)}
    assert found == WEIGHTS
