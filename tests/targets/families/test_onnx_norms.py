"""Norms whose sums are taken in stages: where they have to be, and that they compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets import onnx as onnx_target
from crosscast.targets import ort
from crosscast.targets.families import onnx_norms

SIDE = 256
CHANNELS = np.random.default_rng(0).normal(0, 0.3, (1, 8, 1, 1)).astype(np.float32)
SCALE, BIAS = np.array([1, 2], np.float32), np.array([0.5, -1], np.float32)


def tree(tmp_path: Path, *, side: int = SIDE, opset: int = 18, flat: bool = True) -> Path:
    """An exported group norm of two groups, or an instance norm, of channels that differ."""
    norm = helper.make_node("InstanceNormalization", ["r", "scale", "bias"], ["n"], name="norm")
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Reshape", ["a", "rows" if flat else "whole"], ["r"]),
        norm,
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["n", "shape"], ["y"]),
    ]
    constants: dict[str, Any] = {
        "c": CHANNELS,
        "rows": np.array([0, 2, -1]),
        "whole": np.array([0, 2, 4 * side, side]),
        "scale": SCALE,
        "bias": BIAS,
    }
    shape = ("batch", 8, side, side)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "net", info[:1], info[1:], weights),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    place = tmp_path / "model"
    place.mkdir()
    onnx.save(made, place / "model.onnx")
    signature = Signature(
        inputs=(Tensor(name="x", shape=shape, dtype="float32"),), dims={"batch": (1, 2)}
    )
    (place / "signature.json").write_text(json.dumps(signature.to_json()))
    return place


def converted(
    place: Path, tmp_path: Path, *, exporter: str, target: Any = onnx_target
) -> tuple[list[str], Any]:
    """The operators, and the answers' SNR for channels that are constant."""
    (place / "notes.json").write_text(json.dumps({"exporter": exporter} if exporter else {}))
    out = tmp_path / "out"
    out.mkdir()
    target.convert(model=place, options={}, out=out)
    side = onnx.load(place / "model.onnx").graph.input[0].type.tensor_type.shape.dim[2].dim_value
    x = np.full((2, 8, side, side), 0.25, np.float32)
    given = target.open(artifact=out).run({"x": x})["y"].astype(float)
    rows = (x.astype(float) + CHANNELS).reshape(2, 2, -1)
    rows -= rows.mean(axis=-1, keepdims=True)
    rows /= np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + 1e-5)
    wanted = (rows * SCALE[:, None] + BIAS[:, None]).reshape(x.shape)
    noise = np.sqrt(np.mean((given - wanted) ** 2) / np.mean(wanted**2))
    path = out / "model.onnx"
    nodes = onnx.load(path).graph.node if path.exists() else ()
    return [node.op_type for node in nodes], -20 * np.log10(noise)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("flat", [False, True])
def test_long_rows_that_are_alike_are_summed_in_stages(
    tmp_path: Path, opset: int, flat: bool
) -> None:
    place = tree(tmp_path, opset=opset, flat=flat)
    operators, snr = converted(place, tmp_path, exporter="torch.onnx")
    assert "InstanceNormalization" not in operators
    assert snr > 105
    assert "in stages" in json.loads((tmp_path / "out/notes.json").read_text())["said"]


def test_short_rows_are_left_to_the_runtime(tmp_path: Path) -> None:
    place = tree(tmp_path, side=16)
    operators, snr = converted(place, tmp_path, exporter="torch.onnx")
    assert "InstanceNormalization" in operators
    assert snr > 100


def test_the_ort_format_has_them_too(tmp_path: Path) -> None:
    _, snr = converted(tree(tmp_path), tmp_path, exporter="torch.onnx", target=ort)
    assert snr > 105


def test_a_file_that_is_onnx_already_computes_as_it_did(tmp_path: Path) -> None:
    operators, snr = converted(tree(tmp_path), tmp_path, exporter="")
    assert "InstanceNormalization" in operators
    assert snr < 90


def test_what_does_not_suffer_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tree(tmp_path)
    (place / "notes.json").write_text('{"exporter": "torch.onnx"}')
    monkeypatch.setattr(onnx_norms, "_suffers", lambda *_: False)
    model = onnx.load(place / "model.onnx")
    assert onnx_norms.steadied(model, tree=place) == (model, "")


def test_rows_are_split_by_a_divisor() -> None:
    lengths = {200704: 448, 17: 0, 0: 0, 49: 7}
    assert {length: onnx_norms._divisor(length) for length in lengths} == lengths
