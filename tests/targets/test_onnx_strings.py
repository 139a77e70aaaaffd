"""ONNX targets on models of scikit-learn's kind: strings, and numbers that are attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import onnx as trees
from crosscast.targets.families import onnx_runtime, onnx_stored, onnx_usage, tflite_graph


def tree(folder: Path, *nodes: Any, inputs: tuple[str, int], outputs: tuple[str, int]) -> Path:
    """An ONNX tree with that graph over [batch, 2]."""
    values = [helper.make_tensor_value_info(n, kind, ["batch", 2]) for n, kind in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "g", values[:1], values[1:])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    trees.save(helper.make_model(graph, opset_imports=imports, ir_version=10), folder)
    return folder


def scaled(folder: Path) -> Path:
    node = helper.make_node(
        "Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0, 2.0], scale=[1.0, 3.0]
    )
    return tree(folder, node, inputs=("x", TensorProto.FLOAT), outputs=("y", TensorProto.FLOAT))


def copied(folder: Path) -> Path:
    node = helper.make_node("Identity", ["text"], ["label"])
    kind = TensorProto.STRING
    return tree(folder, node, inputs=("text", kind), outputs=("label", kind))


def test_strings_have_their_dtype(tmp_path: Path) -> None:
    inputs, outputs = trees.interface(trees.load(copied(tmp_path)))
    assert [tensor.dtype for tensor in (*inputs, *outputs)] == ["string", "string"]


def test_numbers_in_attributes_are_weights_in_float32(tmp_path: Path) -> None:
    found = onnx_runtime.precision(artifact=scaled(tmp_path))
    assert found.delivered == "fp32"
    assert found.weights == {"float32": 16}


def test_numbers_in_attributes_are_not_kept_in_fewer_bits(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"attributes of Scaler \(ai.onnx.ml\)") as raised:
        onnx_stored.refuse_quantized(scaled(tmp_path), target="onnx-int8")
    assert "use the target onnx" in raised.value.fix


def test_tflite_refuses_strings_by_name(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="'text' holds strings"):
        tflite_graph.prepare(copied(tmp_path) / trees.MODEL)


def test_usage_feeds_and_reads_strings() -> None:
    text = {"name": "text", "shape": ["batch", 1], "dtype": "string", "values": ["", "red"]}
    label = {"name": "label", "shape": ["batch"], "dtype": "string"}
    manifest = {
        "model": "m", "version": "1.0.0", "target": "onnx", "files": [{"path": "model.onnx"}],
        "inputs": [text], "outputs": [label],
    }  # fmt: skip
    note = onnx_usage.usage(manifest=manifest)
    assert 'for name in ["text", "label"]' in note
    assert 'new ort.Tensor("string", new Array(1).fill("red"), [1, 1])' in note
    assert 'OnnxTensor.createTensor(environment, Array(1) { "red" }, longArrayOf(1, 1))' in note
