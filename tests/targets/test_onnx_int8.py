"""What is done to a graph, and to samples, before they are quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.families import onnx_int8

onnx = pytest.importorskip("onnx")


def tied(opset: int = 18) -> Any:
    """A weight that two nameless Gemm read by rows and one by columns."""
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w"], ["h"], transB=1),
        onnx.helper.make_node("Gemm", ["h", "w"], ["i"], transB=1),
        onnx.helper.make_node("Gemm", ["i", "w"], ["y"]),
    ]
    shape = ["batch", 3]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, shape)],
        [onnx.helper.make_tensor_value_info("y", 1, shape)],
        [onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")],
        value_info=[onnx.helper.make_tensor_value_info("h", 1, [7, 7])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def test_preparation_names_nodes_splits_weights_and_forgets_shapes() -> None:
    model = tied()
    onnx_int8._prepare(model, onnx_int8.StaticOptions())
    assert [node.name for node in model.graph.node] == ["Gemm_0", "Gemm_1", "Gemm_2"]
    assert [node.input[1] for node in model.graph.node] == ["w", "w", "w_of_Gemm_2"]
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert set(values) == {"w", "w_of_Gemm_2"}
    np.testing.assert_array_equal(values["w"], values["w_of_Gemm_2"])
    assert not model.graph.value_info


def test_exclude_takes_names_and_operators_and_refuses_what_is_not_there() -> None:
    model = tied()
    onnx_int8._prepare(model, onnx_int8.StaticOptions())
    assert onnx_int8._excluded(model, ("Gemm_1",)) == ["Gemm_1"]
    assert onnx_int8._excluded(model, ("Gemm",)) == ["Gemm_0", "Gemm_1", "Gemm_2"]
    with pytest.raises(StageError, match=r"'Gem_1' is neither .*; did you mean 'Gemm_1'\?"):
        onnx_int8._excluded(model, ("Gem_1",))


@pytest.mark.parametrize(
    ("opset", "per_channel", "message"),
    [
        (12, True, "per-channel scales need opset 13 or later; the model has 12"),
        (9, False, "quantization needs opset 10 or later; the model has 9"),
        (12, False, ""),
        (13, True, ""),
    ],
)
def test_the_opset_must_have_what_is_asked_for(opset: int, per_channel: bool, message: str) -> None:
    chosen = onnx_int8.StaticOptions(per_channel=per_channel)
    if not message:
        onnx_int8._check_opset(tied(opset), chosen)
        return
    with pytest.raises(StageError, match=message) as caught:
        onnx_int8._check_opset(tied(opset), chosen)
    assert caught.value.fix.startswith("set 'opset: ")


def test_calibration_samples_are_needed(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="needs calibration samples"):
        onnx_int8.quantize(model=tmp_path, options={}, samples=None, out=tmp_path)


def write_signature(tree: Path, tensor: Tensor, layout: Any) -> None:
    signature = Signature(inputs=(tensor,)).permuted(layout)
    (tree / "signature.json").write_text(json.dumps(signature.to_json()))


def test_samples_are_read_one_at_a_time(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    value = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    save_file({"image": value, "unused": value}, tmp_path / "0000.safetensors")
    (tmp_path / "cases.json").write_text(json.dumps([{"name": "a", "file": "0000.safetensors"}]))
    reader = onnx_int8.SampleReader(samples=tmp_path, names={"image"})
    first = reader.get_next()
    assert first is not None
    assert set(first) == {"image"}
    assert first["image"].shape == (1, 3, 4, 5)
    assert reader.get_next() is None
