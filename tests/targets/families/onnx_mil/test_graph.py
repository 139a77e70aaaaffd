"""The walk through a graph: folding, control flow, and refusals. No converter is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.onnx_mil import graph as walks
from crosscast.targets.families.onnx_mil.node import Wide

onnx = pytest.importorskip("onnx")
helper = onnx.helper


class Variable:
    """What a builder gives, as far as the walk looks at it."""

    val = None

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.rank = len(shape)


def value(name: str, kind: int = 1) -> Any:
    return helper.make_tensor_value_info(name, kind, None)


def walked(
    nodes: list[Any], outputs: list[str], given: dict[str, Any] | None = None, **weights: Any
) -> list[Any]:
    tensors = [onnx.numpy_helper.from_array(np.asarray(one), key) for key, one in weights.items()]
    inner = helper.make_graph(nodes, "g", [], [value(name) for name in outputs], tensors)
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 18)])
    return walks.Walk(model, mb=None, system=16).graph(model.graph, dict(given or {}))


def test_what_is_known_is_computed() -> None:
    nodes = [
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=onnx.TensorProto.INT64),
    ]
    (made,) = walked(nodes, ["y"], a=np.float32([1.5, 2]), b=np.float32(1))
    assert made.dtype == np.int64
    assert made.tolist() == [2, 3]


def test_an_unknown_operator_is_refused_by_name() -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], "here", domain="org.example")]
    with pytest.raises(
        StageError, match=r"no equivalent of operator org.example.Mystery \(layer h"
    ):
        walked(nodes, ["y"], {"x": Variable(2)})


def test_an_attribute_that_an_operator_does_not_handle_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walks, "TABLE", {"Relu": lambda node: node.operand(0)})
    nodes = [helper.make_node("Relu", ["x"], ["y"], "here", speed=9)]
    with pytest.raises(StageError, match=r"Relu \(layer here\): attribute speed=9 is not"):
        walked(nodes, ["y"], {"x": Variable(2)})


def test_an_output_that_is_not_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "TABLE", {"MaxPool": lambda node: node.operand(0)})
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "where"])]
    with pytest.raises(StageError, match="its output 'where' is not supported"):
        walked(nodes, ["y", "where"], {"x": Variable(2)})
    assert len(walked(nodes, ["y"], {"x": Variable(2)})) == 1


@pytest.mark.parametrize(
    ("shape", "said"), [((1, 2, 3, 4, 5, 6), "a tensor of rank 6"), ((2, 0), "without elements")]
)
def test_what_a_program_cannot_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], said: str
) -> None:
    monkeypatch.setattr(walks, "TABLE", {"Relu": lambda _: Variable(*shape)})
    with pytest.raises(StageError, match=said):
        walked([helper.make_node("Relu", ["x"], ["y"])], ["y"], {"x": Variable(2)})


def test_a_fault_of_the_builder_names_operator_and_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(node: Any) -> Any:
        raise ValueError("no\nsuch thing")

    monkeypatch.setattr(walks, "TABLE", {"Relu": broken})
    with pytest.raises(StageError, match=r"Relu \(layer y\): ValueError: no such thing"):
        walked([helper.make_node("Relu", ["x"], ["y"])], ["y"], {"x": Variable(2)})


def test_a_tensor_of_many_dimensions_waits_for_its_reshape() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "here")]
    with pytest.raises(StageError, match=r"Relu \(layer here\): a tensor of rank 6"):
        walked(nodes, ["y"], {"x": Wide(value=Variable(64), sizes=(2,) * 6)})


def branches(**taken: float) -> dict[str, Any]:
    return {
        name: helper.make_graph(
            [helper.make_node("Mul", ["outer", f"{name}_factor"], [f"{name}_y"])],
            name,
            [],
            [value(f"{name}_y")],
            [onnx.numpy_helper.from_array(np.float32(factor), f"{name}_factor")],
        )
        for name, factor in taken.items()
    }


@pytest.mark.parametrize(("condition", "wanted"), [(True, 6.0), (False, 15.0)])
def test_a_known_condition_leaves_one_branch(condition: bool, wanted: float) -> None:
    nodes = [helper.make_node("If", ["c"], ["y"], **branches(then_branch=2, else_branch=5))]
    (made,) = walked(nodes, ["y"], c=np.array(condition), outer=np.float32(3))
    assert made == wanted


def counting() -> Any:
    """state, turn -> state + turn, and the new state of each turn."""
    return helper.make_graph(
        [
            helper.make_node("Add", ["state", "turn"], ["next"]),
            helper.make_node("Identity", ["next"], ["seen"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [value("turn", 7), value("going", 9), value("state", 7)],
        [value("still", 9), value("next", 7), value("seen", 7)],
    )


def test_a_loop_of_known_turns_is_unrolled() -> None:
    nodes = [helper.make_node("Loop", ["n", "", "s"], ["last", "all"], body=counting())]
    last, every = walked(nodes, ["last", "all"], n=np.int64(4), s=np.int64(10))
    assert last == 16
    assert every.tolist() == [10, 11, 13, 16]


def test_outputs_of_an_unknown_number_of_turns_are_refused() -> None:
    nodes = [helper.make_node("Loop", ["n", "", "s"], ["last", "all"], body=counting())]
    with pytest.raises(StageError, match="it collects an output of each turn"):
        walked(nodes, ["last"], {"n": Variable()}, s=np.int64(10))


def test_a_scan_over_a_known_sequence_is_unrolled() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["sum", "row"], ["more"]),
            helper.make_node("Identity", ["more"], ["seen"]),
        ],
        "body",
        [value("sum"), value("row")],
        [value("more"), value("seen")],
    )
    nodes = [
        helper.make_node(
            "Scan", ["s", "x"], ["last", "all"], body=body, num_scan_inputs=1,
            scan_input_directions=[1],
        )
    ]  # fmt: skip
    rows = np.float32([[1, 10], [2, 20], [4, 40]])
    last, every = walked(nodes, ["last", "all"], s=np.zeros(2, np.float32), x=rows)
    assert last.tolist() == [7, 70]
    assert every.tolist() == [[4, 40], [6, 60], [7, 70]]
