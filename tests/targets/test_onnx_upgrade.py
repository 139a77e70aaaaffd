"""Old opsets brought up: what ONNX's own converter lacks, or gets wrong without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.onnx import opset
from crosscast.targets.families.onnx_upgrade import upgraded

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper = onnx.helper

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
C = np.array([1, 2, 3], np.float32)
PER_CHANNEL = C[:, None, None]


def model(nodes: list[Any], version: int, **weights: Any) -> Any:
    """Old files list their weights as inputs, too."""
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    inputs = [helper.make_tensor_value_info("x", 1, X.shape)]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3)


def run(given: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        given.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": X})[0]


node = helper.make_node
BEFORE_SEVEN = {
    "an axis to broadcast from": (
        [node("Relu", ["x"], ["a"], consumed_inputs=[0]),
         node("Add", ["a", "c"], ["y"], broadcast=1, axis=1, consumed_inputs=[0, 0])],
        1, {"c": C}, np.maximum(X, 0) + PER_CHANNEL,
    ),
    "behind operators that tell their rank": (
        [node("Mul", ["x", "c"], ["a"], broadcast=1, axis=1),
         node("Dropout", ["a"], ["b"], is_test=1, ratio=0.5),
         node("Sub", ["b", "c"], ["y"], broadcast=1, axis=-3)],
        6, {"c": C}, X * PER_CHANNEL - PER_CHANNEL,
    ),
    "a slope a channel": (
        [node("PRelu", ["x", "c"], ["y"])], 6, {"c": C}, np.where(X > 0, X, X * PER_CHANNEL),
    ),
    "batch normalization": (
        [node("BatchNormalization", ["x", "c", "c", "c", "c"], ["y"], is_test=1,
              consumed_inputs=[0] * 5)],
        1, {"c": C}, (X - PER_CHANNEL) / np.sqrt(PER_CHANNEL + 1e-5) * PER_CHANNEL + PER_CHANNEL,
    ),
    "a shape as an attribute": (
        [node("Reshape", ["x"], ["y"], shape=[2, -1])], 1, {}, X.reshape(2, -1),
    ),
    "an axis that was the default": (
        [node("Concat", ["x", "x"], ["y"])], 1, {}, np.concatenate([X, X], 1),
    ),
    "paddings": (
        [node("Pad", ["x"], ["y"], paddings=[0, 0, 1, 1, 0, 0, 0, 0])], 1, {},
        np.pad(X, [(0, 0), (0, 0), (1, 0), (1, 0)]),
    ),
    "scales of the sides": (
        [node("Upsample", ["x"], ["y"], height_scale=2.0, width_scale=2.0, mode="nearest")], 1, {},
        X.repeat(2, 2).repeat(2, 3),
    ),
    "tiles of an axis": (
        [node("Tile", ["x", "t", "a"], ["y"])], 1,
        {"t": np.array([2], np.float32), "a": np.array([1], np.float32)}, np.tile(X, [1, 2, 1, 1]),
    ),
    "sizes as an input": (
        [node("Split", ["x", "s"], ["y", "z"], axis=1)], 1, {"s": np.array([1, 2], np.float32)},
        X[:, :1],
    ),
    "types by name": (
        [node("Cast", ["x"], ["i"], to="INT32"), node("Cast", ["i"], ["y"], to="FLOAT")], 1, {},
        np.trunc(X),
    ),
    "fewer digits": (
        [node("Selu", ["x"], ["y"])], 1, {},
        1.0507 * np.where(X > 0, X, 1.6732 * (np.exp(X) - 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE_SEVEN)
def test_before_opset_seven(name: str) -> None:
    nodes, version, weights, wanted = BEFORE_SEVEN[name]
    after = upgraded(model(nodes, version, **weights), 17)
    assert opset(after) == 17
    np.testing.assert_allclose(run(after), wanted, rtol=1e-5, atol=1e-5)


FROM_SEVEN = [
    *((7, [node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0], mode=mode)], {})
      for mode in ("nearest", "linear")),
    *((10, [node("Resize", ["x", "s"], ["y"], mode=mode)], {"s": np.array(scales, np.float32)})
      for mode in ("nearest", "linear")
      for scales in ([1, 1, 2, 3], [1, 1, 0.5, 0.5], [1, 1, 1.5, 1.7])),
    *((11, [node(operator, ["x"], ["y"], axis=axis)], {})
      for operator in ("Softmax", "LogSoftmax", "Hardmax") for axis in (1, 2, 3)),
    (7, [node("BatchNormalization", ["x", *"abcd"], ["y"], spatial=0)],
     {name: np.abs(X[0]) + index + 1 for index, name in enumerate("abcd")}),
    (7, [node("Clip", ["x"], ["y"], min=-0.5, max=0.5)], {}),
    (7, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 2, 2], mode="reflect")], {}),
    (7, [node("Slice", ["x"], ["y"], starts=[1], ends=[99], axes=[3])], {}),
    (9, [node("Dropout", ["x"], ["y"], ratio=0.3)], {}),
    (11, [node("ReduceSum", ["x"], ["y"], axes=[2, 3], keepdims=0)], {}),
]  # fmt: skip


@pytest.mark.parametrize(("version", "nodes", "weights"), FROM_SEVEN)
@pytest.mark.parametrize("wanted", [13, 17, 21])
def test_the_meaning_is_kept(version: int, nodes: Any, weights: Any, wanted: int) -> None:
    before = model(nodes, version, **weights)
    after = upgraded(before, wanted)
    assert opset(after) == wanted
    assert [value.name for value in after.graph.output] == ["y"]
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-6)


def test_inner_graphs_are_brought_up_as_well() -> None:
    branch = helper.make_graph(
        [node("Hardmax", ["x"], ["h"], axis=2)],
        "b",
        [],
        [helper.make_tensor_value_info("h", 1, None)],
    )
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    before = model([node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)], 11)
    before.graph.initializer.append(yes)
    before.ir_version = 7
    np.testing.assert_array_equal(run(upgraded(before, 17)), run(before))


def test_its_own_opset_changes_nothing_and_the_original_stays() -> None:
    before = model([node("Hardmax", ["x"], ["y"], axis=1)], 11)
    copy = onnx.ModelProto()
    copy.CopyFrom(before)
    assert upgraded(before, 11) is before
    upgraded(before, 17)
    assert before == copy


@pytest.mark.parametrize(
    ("nodes", "version", "message"),
    [
        ([node("Scan", ["", "x"], ["y"], num_scan_inputs=1)], 8, r"operator Scan \(layer y\)"),
        (
            [node("BatchNormalization", ["x", *"xxxx"], ["y", "m"])],
            6,
            r"BatchNormalization \(layer y\) .* it is in training mode",
        ),
        ([node("Split", ["x", "x"], ["y", "z"])], 1, "its sizes are computed"),
        (
            [node("Mystery", ["x"], ["a"]), node("Add", ["a", "x"], ["y"], broadcast=1, axis=1)],
            6,
            "the shapes that it broadcasts are not known",
        ),
    ],
)
def test_what_has_no_equivalent_is_named(nodes: Any, version: int, message: str) -> None:
    with pytest.raises(StageError, match=message):
        upgraded(model(nodes, version), 17)


def test_the_converter_s_own_refusal_is_told_in_words() -> None:
    before = model([node("Mish", ["x"], ["y"])], 18)
    with pytest.raises(
        StageError, match="opset 18 and cannot be brought to opset 9: operator Mish"
    ):
        upgraded(before, 9)
