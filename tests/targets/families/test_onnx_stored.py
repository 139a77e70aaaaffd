"""Sources that are int8 already: weights given back, or the file as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import onnx_stored


def tree(tmp_path: Path, *, rounds: bool) -> Path:
    weights = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["dense"], axis=1),
        helper.make_node("MatMul", ["x", "dense"], ["y"]),
    ]
    if rounds:
        nodes[1].input[0] = "rounded"
        nodes[:0] = [
            helper.make_node("QuantizeLinear", ["x", "one"], ["levels"]),
            helper.make_node("DequantizeLinear", ["levels", "one"], ["rounded"]),
        ]
    constants = {
        "w": weights,
        "s": np.array([1, 2, 3, 4], np.float32),
        "z": np.array([0, 1, 0, 0], np.int8),
        "one": np.array(1, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, [2, 3])],
        [helper.make_tensor_value_info("y", 1, [2, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, tmp_path / "model.onnx")
    (tmp_path / "notes.json").write_text('{"precision": "int8"}')
    return tmp_path


def test_weights_alone_are_given_back(tmp_path: Path) -> None:
    place = tree(tmp_path, rounds=False)
    onnx_stored.refuse_quantized(place, target="onnx-fp16")
    assert not onnx_stored.shipped_as_it_is(place, tmp_path / "out")
    graph = onnx_stored.with_floats(onnx.load(place / "model.onnx")).graph
    assert [node.op_type for node in graph.node] == ["MatMul"]
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert held["dense"].dtype == np.float32
    assert held["dense"].tolist()[0] == [-6, -12, -12, -12]


def test_what_computes_in_int8_ships_as_it_is(tmp_path: Path) -> None:
    place, out = tree(tmp_path, rounds=True), tmp_path / "out"
    with pytest.raises(StageError, match="onnx-fp16: the source computes in int8"):
        onnx_stored.refuse_quantized(place, target="onnx-fp16")
    out.mkdir()
    assert onnx_stored.shipped_as_it_is(place, out)
    assert onnx.load(out / "model.onnx") == onnx.load(place / "model.onnx")
    assert "ships as it is" in json.loads((out / "notes.json").read_text())["said"]
