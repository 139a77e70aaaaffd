"""Files that are right but odd, brought into the usual form."""

from __future__ import annotations

from typing import Any

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.onnx_clean import cleaned, reads

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def value(name: str, shape: Any = (2,)) -> Any:
    return helper.make_tensor_value_info(name, 1, shape)


def model(nodes: list[Any], weights: tuple[str, ...] = (), **more: Any) -> Any:
    tensors = [helper.make_tensor(name, 1, [2], [1.0, 2.0]) for name in weights]
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], tensors)
    more.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, ir_version=8, **more)


def test_nodes_are_put_in_order() -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["b"], ["n"])], "t", [], [value("n")])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["m"])], "e", [], [value("m")])
    odd = model(
        [
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Cast", ["s"], ["c"], to=9),
            helper.make_node("ReduceSum", ["b"], ["s"], keepdims=0),
            helper.make_node("Add", ["x", "x"], ["a"]),
        ]
    )
    assert set(reads(odd.graph.node[0])) == {"c", "b", "x"}
    after = cleaned(odd)
    assert [node.op_type for node in after.graph.node] == ["Add", "Relu", "ReduceSum", "Cast", "If"]
    onnx.checker.check_model(after, full_check=True)


def test_what_is_in_order_stays_as_it_is() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "n"),
        helper.make_node("Neg", ["a"], ["y"], "m"),
    ]
    assert cleaned(model(nodes)) == model(nodes)


def test_a_circle_is_an_error() -> None:
    circle = [helper.make_node("Relu", ["y"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    with pytest.raises(StageError, match="depend on each other in a circle, at Relu"):
        cleaned(model(circle))


def test_names_are_unique_and_what_nothing_reads_is_gone() -> None:
    nodes = [
        helper.make_node("Add", ["x", "w"], ["a"], "n"),
        helper.make_node("Neg", ["a"], ["y"], "n"),
    ]
    after = cleaned(model([*nodes], weights=("w", "left_over")))
    assert [node.name for node in after.graph.node] == ["n", "n_"]
    assert [tensor.name for tensor in after.graph.initializer] == ["w"]


def test_functions_are_inlined() -> None:
    twice = helper.make_function(
        "own", "Twice", ["i"], ["o"], [helper.make_node("Add", ["i", "i"], ["o"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    odd = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")],
        functions=[twice],
        opset_imports=opsets,
    )
    after = cleaned(odd)
    assert [node.op_type for node in after.graph.node] == ["Add"]
    assert not after.functions


def test_the_standard_domain_has_one_name() -> None:
    odd = model(
        [helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")],
        opset_imports=[helper.make_opsetid("ai.onnx", 17)],
    )
    after = cleaned(odd)
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 17)]
    assert after.graph.node[0].domain == ""


def test_a_newer_ir_than_runtimes_read_is_lowered() -> None:
    odd = model([helper.make_node("Relu", ["x"], ["y"])])
    odd.ir_version = 13
    assert cleaned(odd).ir_version == 10
