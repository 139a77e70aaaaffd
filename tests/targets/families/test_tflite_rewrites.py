from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from crosscast.targets.families import tflite_rewrites as rewrites

RNG = np.random.default_rng(0)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def model(node: Any, inputs: dict[str, Any], weights: dict[str, Any], opset: int = 18) -> Any:
    graph = helper.make_graph(
        [node],
        "net",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in inputs.items()
        ],
        [
            helper.make_tensor_value_info(
                name, INT64 if node.op_type in ("Abs", "CumSum") else FLOAT, None
            )
            for name in node.output
            if name
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(made)


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "elu": ("Elu", {"alpha": 0.7}, {"x": floats(2, 5)}, {}),
    "layer norm": (
        "LayerNormalization",
        {"axis": 1},
        {"x": floats(2, 5, 3)},
        {"s": floats(5, 3), "b": floats(5, 3)},
    ),
    "layer norm without shift": (
        "LayerNormalization",
        {"epsilon": 1e-3},
        {"x": floats(2, 5, 3)},
        {"s": floats(3)},
    ),
    "a bound nearly 0": ("Clip", {}, {"x": floats(4, 5)}, {"low": np.float32(1e-12)}),
    "bounds nearly -1 and 1": (
        "Clip",
        {},
        {"x": floats(4, 5)},
        {"low": np.float32(-1 + 1e-6), "high": np.float32(1 - 1e-6)},
    ),
    "a computed upper bound": (
        "Clip",
        {},
        {"x": floats(4, 5), "low": np.array(0, np.float32), "high": np.array(0.5, np.float32)},
        {},
    ),
    "hard sigmoid": ("HardSigmoid", {"alpha": 1 / 6}, {"x": floats(4, 5) * 5}, {}),
    "integer sums": ("CumSum", {"reverse": 1}, {"x": np.arange(6)}, {"axis": np.array(0)}),
    "integer abs": ("Abs", {}, {"x": np.arange(-3, 3)}, {}),
    "diagonal": ("Einsum", {"equation": "bii->bi"}, {"x": floats(2, 4, 4)}, {}),
    "trace": ("Einsum", {"equation": "bii->b"}, {"x": floats(2, 4, 4)}, {}),
    "max pool with holes": (
        "MaxPool",
        {"kernel_shape": [3, 2], "dilations": [2, 1], "pads": [1, 0, 1, 1], "strides": [1, 2]},
        {"x": floats(2, 3, 8, 9)},
        {},
    ),
    "average pool beyond": (
        "AveragePool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"x": floats(2, 3, 8, 10)},
        {},
    ),
    "average pool beyond its padding": (
        "AveragePool",
        {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "ceil_mode": 1},
        {"x": floats(2, 3, 8)},
        {},
    ),
    "grouped conv": (
        "Conv",
        {"group": 2, "pads": [1, 2]},
        {"x": floats(2, 4, 9)},
        {"w": floats(6, 2, 3)},
    ),
    "conv with computed weights": (
        "Conv",
        {"pads": [1, 0, 1, 2], "strides": [2, 1], "dilations": [1, 2]},
        {"x": floats(1, 4, 7, 8), "w": floats(5, 4, 3, 2), "b": floats(5)},
        {},
    ),
    "depthwise conv with computed weights": (
        "Conv",
        {"group": 4},
        {"x": floats(1, 4, 7, 8), "w": floats(4, 1, 3, 2)},
        {},
    ),
    "transposed conv": (
        "ConvTranspose",
        {"strides": [2], "pads": [1, 1], "output_padding": [1]},
        {"x": floats(2, 4, 9)},
        {"w": floats(4, 3, 3)},
    ),
}


def rewritten(made: Any, *, any_batch: bool = False, **asked: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    rewrites.apply(copy, any_batch=any_batch, **asked)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def same(one: Any, other: Any, inputs: dict[str, Any]) -> None:
    wanted, found = (ReferenceEvaluator(each).run(None, inputs) for each in (one, other))
    for mine, its in zip(wanted, found, strict=True):
        assert mine.dtype == its.dtype
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_quotient_that_is_not_taken_is_finite(swapped: bool) -> None:
    """A sum of products, by which onnx2tf selects, would make NaN of it."""
    branches = ["q", "zero"] if swapped else ["zero", "q"]
    nodes = [
        helper.make_node("Equal", ["d", "zero"], ["none"]),
        helper.make_node("Not", ["none"], ["some"]),
        helper.make_node("Div", ["x", "d"], ["q"]),
        helper.make_node("Where", ["some" if swapped else "none", *branches], ["y"]),
    ]
    inputs = {"x": floats(3, 4), "d": np.array([[2], [0], [-1]], np.float32)}
    made = model(nodes[-1], inputs, {"zero": np.zeros(1, np.float32)})
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made = onnx.shape_inference.infer_shapes(made)
    changed = rewritten(made)
    quotient = next(node for node in changed.graph.node[::-1] if node.op_type == "Div")
    with np.errstate(divide="ignore"):  # the quotient that is read no more is still there
        same(made, changed, inputs)
        changed.graph.output[0].name = quotient.output[0]
        assert np.isfinite(ReferenceEvaluator(changed).run(None, inputs)[0]).all()


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_keeps_the_meaning(name: str) -> None:
    kind, attributes, inputs, weights = CASES[name]
    node = helper.make_node(kind, [*inputs, *weights], ["y"], name="/layer", **attributes)
    made = model(node, inputs, weights)
    changed = rewritten(made)
    assert made.graph.node[0] not in changed.graph.node
    same(made, changed, inputs)


@pytest.mark.parametrize(
    ("kind", "attributes", "inputs"),
    [
        ("Elu", {}, {"x": floats(2, 3)}),
        ("MaxPool", {"kernel_shape": [2, 2]}, {"x": floats(1, 2, 4, 4)}),
        ("AveragePool", {"kernel_shape": [2, 2]}, {"x": floats(1, 2, 4, 4)}),
        ("HardSigmoid", {}, {"x": floats(2, 3)}),
        ("Einsum", {"equation": "bij->bji"}, {"x": floats(2, 3, 4)}),
    ],
)
def test_what_onnx2tf_does_right_stays(
    kind: str, attributes: dict[str, Any], inputs: dict[str, Any]
) -> None:
    made = model(helper.make_node(kind, ["x"], ["y"], **attributes), inputs, {})
    assert [node.op_type for node in rewritten(made).graph.node] == [kind]


@pytest.mark.parametrize("bounds", [(0,), (0, 6), (-1, 1), (0.1, 0.9)])
def test_bounds_that_onnx2tf_keeps_stay(bounds: tuple[float, ...]) -> None:
    weights = {f"bound{at}": np.float32(value) for at, value in enumerate(bounds)}
    made = model(helper.make_node("Clip", ["x", *weights], ["y"]), {"x": floats(2, 3)}, weights)
    assert [node.op_type for node in rewritten(made).graph.node] == ["Clip"]


def recurrent(
    kind: str, *, direction: str, state: bool, length: int = 5, **attributes: Any
) -> tuple[Any, Any]:
    ways, gates = (2 if direction == "bidirectional" else 1), RECURRENT[kind]
    weights = {
        "w": floats(ways, gates * 3, 4),
        "r": floats(ways, gates * 3, 3),
        "b": floats(ways, gates * 6),
    }
    inputs = {"x": floats(length, 2, 4)}
    states = ["h", "c"][: 2 if kind == "LSTM" else 1] if state else []
    inputs |= {name: floats(ways, 2, 3) for name in states}
    outputs = ["y", "y_h", *(["y_c"] if kind == "LSTM" else [])]
    node = helper.make_node(
        kind,
        ["x", *weights, "", *states],
        outputs,
        name="/layer",
        hidden_size=3,
        direction=direction,
        **attributes,
    )
    return model(node, inputs, weights), inputs


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("state", [False, True])
def test_an_unrolled_layer_keeps_the_meaning(kind: str, direction: str, state: bool) -> None:
    attributes = {"linear_before_reset": 1} if kind == "GRU" else {}
    made, inputs = recurrent(kind, direction=direction, state=state, **attributes)
    changed = rewritten(made, any_batch=True)
    assert kind not in {node.op_type for node in changed.graph.node}
    if direction == "forward":  # the one direction that onnx.reference knows
        same(made, changed, inputs)


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("state", [False, True])
def test_steps_beyond_the_length_leave_the_state(kind: str, state: bool) -> None:
    made, inputs = recurrent(kind, direction="forward", state=state)
    name = made.graph.node[0].name
    most = inputs["x"].shape[0] + 2
    changed = rewritten(made, any_batch=True, lengths={name: most})
    same(made, changed, inputs)
    longer, _ = recurrent(kind, direction="forward", state=state, length=most)
    kinds = [
        [node.op_type for node in rewritten(each, any_batch=True, lengths={name: most}).graph.node]
        for each in (made, longer)
    ]
    assert kinds[0] == kinds[1]


def test_a_layer_of_too_great_a_length_stays() -> None:
    made, _ = recurrent("GRU", direction="forward", state=False)
    asked = {made.graph.node[0].name: 2000}
    assert [node.op_type for node in rewritten(made, lengths=asked).graph.node] == ["GRU"]


def test_a_layer_that_litert_has_stays() -> None:
    made, _ = recurrent("LSTM", direction="forward", state=False)
    assert [node.op_type for node in rewritten(made).graph.node] == ["LSTM"]


def test_a_gru_that_resets_before_its_product() -> None:
    made, inputs = recurrent("GRU", direction="forward", state=True)
    same(made, rewritten(made), inputs)


def test_rare_layers_stay() -> None:
    made, _ = recurrent("LSTM", direction="forward", state=True, clip=1.0)
    assert [node.op_type for node in rewritten(made).graph.node] == ["LSTM"]


POOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("AveragePool", {"kernel_shape": [3, 2], "strides": [3, 2]}),
    "counted": (
        "AveragePool",
        {
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1, 1, 1, 1],
            "count_include_pad": 1,
        },
    ),
    "max": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
}


@pytest.mark.parametrize("name", POOLS)
def test_padding_of_dynamic_sizes_is_apart(name: str) -> None:
    kind, attributes = POOLS[name]
    inputs = {"x": floats(1, 2, 9, 8)}
    made = model(helper.make_node(kind, ["x"], ["y"], **attributes), inputs, {})
    (kept,) = rewritten(made).graph.node
    assert kept == made.graph.node[0]
    changed = rewritten(made, any_size=True)
    pool = changed.graph.node[-1]
    assert [item.s for item in pool.attribute if item.name == "auto_pad"] == [b"VALID"]
    same(made, changed, inputs)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    ],
)
def test_padding_that_suits_every_size_stays(kind: str, attributes: dict[str, Any]) -> None:
    made = model(helper.make_node(kind, ["x"], ["y"], **attributes), {"x": floats(1, 2, 9, 8)}, {})
    assert rewritten(made, any_size=True).graph.node[0] == made.graph.node[0]
