"""Inputs frozen, and the branch that is then taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.onnx_fold import freeze, frozen, resolve_conditions

onnx = pytest.importorskip("onnx")
helper, reference = onnx.helper, pytest.importorskip("onnx.reference")


def value(name: str, shape: Any = (2, "n"), kind: int = 1) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, number: int) -> Any:
    tensor = helper.make_tensor(name, onnx.TensorProto.INT64, [], [number])
    return helper.make_node("Constant", [], [name], value=tensor)


def branch(name: str, weight: float) -> Any:
    """x * weight, with names that the other branch, and the graph around, have as well."""
    return helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["h"]), helper.make_node("Neg", ["h"], ["y_inner"])],
        name,
        [],
        [value("y_inner")],
        [helper.make_tensor("w", 1, [], [weight])],
    )


def rated() -> Any:
    """Multiplies by 2 at a rate of 16,000 and by 3 at others, and adds what is around."""
    nodes = [
        constant("wanted", 16000),
        helper.make_node("Equal", ["rate", "wanted"], ["is_fast"]),
        helper.make_node(
            "If", ["is_fast"], ["y"], then_branch=branch("t", 2.0), else_branch=branch("e", 3.0)
        ),
        helper.make_node("Add", ["x", "x"], ["h"]),
        helper.make_node("Add", ["y", "h"], ["z"]),
    ]
    inputs = [value("x"), value("rate", (), onnx.TensorProto.INT64)]
    graph = helper.make_graph(nodes, "g", inputs, [value("z")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Any, **inputs: Any) -> Any:
    return reference.ReferenceEvaluator(model).run(None, inputs)[0]


@pytest.mark.parametrize("rate", [16000, 8000])
def test_the_branch_that_a_constant_chooses_is_taken(rate: int) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    wanted = run(rated(), x=x, rate=np.asarray(rate))
    model = rated()
    freeze(model, frozen(model, {"rate": rate}))
    assert resolve_conditions(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert [entry.name for entry in model.graph.input] == ["x"]
    assert not any(node.op_type == "If" for node in model.graph.node)
    np.testing.assert_array_equal(run(model, x=x), wanted)


def test_an_open_condition_stays() -> None:
    model = rated()
    assert resolve_conditions(model) == 0
    assert any(node.op_type == "If" for node in model.graph.node)


@pytest.mark.parametrize(("shape", "resolved"), [((2, 1), 1), ((2, "n"), 0), (("n", 1), 1)])
def test_a_condition_on_a_declared_size(shape: Any, resolved: int) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        constant("one", 1),
        helper.make_node("Gather", ["sizes", "one"], ["width"]),
        helper.make_node("Equal", ["width", "one"], ["is_column"]),
        helper.make_node(
            "If", ["is_column"], ["y"], then_branch=branch("t", 2.0), else_branch=branch("e", 3.0)
        ),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", shape)], [value("y", shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert resolve_conditions(model) == resolved
    x = np.ones((2, 1), np.float32)
    np.testing.assert_array_equal(run(model, x=x), -2 * x)


def test_a_branch_within_a_branch() -> None:
    inner = rated().graph.node[2]
    outer = helper.make_graph([inner], "outer", [], [value("y")])
    nodes = [
        *rated().graph.node[:2],
        helper.make_node("If", ["is_fast"], ["z"], then_branch=outer, else_branch=branch("f", 5.0)),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x"), value("rate", (), onnx.TensorProto.INT64)], [value("z")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    freeze(model, frozen(model, {"rate": 16000}))
    assert resolve_conditions(model) == 2
    onnx.checker.check_model(model, full_check=True)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(model, x=x), -2 * x)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"speed": 1}, "has no input 'speed'; it has 'x', 'rate'"),
        ({"rate": 1.5}, "1.5 is no int64 for 'rate'"),
        ({"rate": "fast"}, "'fast' is no int64 for 'rate'"),
        ({"rate": [1, 2]}, r"'rate' has shape \[\], the constant given has \[2\]"),
        ({"x": [[1, 2]]}, r"'x' has shape \[2, None\], the constant given has \[1, 2\]"),
    ],
)
def test_constants_that_do_not_fit(constants: Any, message: str) -> None:
    with pytest.raises(StageError, match=message):
        frozen(rated(), constants)


def test_constants_get_the_input_s_dtype_and_shape() -> None:
    given = frozen(rated(), {"rate": 8000, "x": [[1, 2, 3], [4, 5, 6]]})
    assert given["rate"].dtype == np.int64
    assert given["rate"].shape == ()
    assert given["x"].dtype == np.float32
