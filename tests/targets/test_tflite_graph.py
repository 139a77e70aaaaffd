from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import tflite_graph as graphs
from crosscast.targets.families.tflite_recurrence import recurrent_lengths

RNG = np.random.default_rng(0)


def value(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int) -> Any:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Any = (), opset: int = 17
) -> Any:
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(path: Path, made: Any) -> Path:
    onnx.save(made, str(path / "model.onnx"))
    return path / "model.onnx"


def computed(made: Any, **inputs: Any) -> list[Any]:
    return list(ReferenceEvaluator(made).run(None, inputs))


def operators(made: Any) -> list[str]:
    return [node.op_type for node in made.graph.node]


def test_a_prepared_graph_computes_the_same_flat(tmp_path: Path) -> None:
    made = model(
        [
            helper.make_node("Conv", ["x:0", "w"], ["y:0"], group=2, pads=[2, 2], dilations=[2]),
            helper.make_node("Relu", ["y:0"], ["r"]),
        ],
        [value("x:0", "batch", 4, 9)],
        [value("r", "batch", 6, 9), value("y:0", "batch", 6, 9)],
        [weight("w", 6, 2, 3)],
    )
    array = RNG.standard_normal((2, 4, 9)).astype(np.float32)
    prepared = graphs.prepare(saved(tmp_path, made))
    onnx.checker.check_model(prepared.model, full_check=True)
    assert prepared.inputs == (
        graphs.Port(name="x:0", alias="input_0", shape=(None, 4, 9), dtype="float32"),
    )
    assert [port.name for port in prepared.outputs] == ["r", "y:0"]
    flat = computed(prepared.model, input_0=array)
    for one, other in zip(computed(made, **{"x:0": array}), flat, strict=True):
        np.testing.assert_allclose(one.ravel(), other.ravel(), atol=1e-5)


def test_no_alias_is_the_name_of_a_tensor_in_the_graph(tmp_path: Path) -> None:
    made = model(
        [
            helper.make_node("Add", ["input_1", "input_0"], ["output_0"]),
            helper.make_node("Neg", ["output_0"], ["output_1"]),
        ],
        [value("input_1", "batch", 3)],
        [value("output_1", "batch", 3), value("output_0", "batch", 3)],
        [weight("input_0", 3)],
    )
    array = RNG.standard_normal((2, 3)).astype(np.float32)
    prepared = graphs.prepare(saved(tmp_path, made))
    onnx.checker.check_model(prepared.model, full_check=True)
    assert [port.alias for port in prepared.inputs] == ["port_input_0"]
    assert [port.name for port in prepared.outputs] == ["output_1", "output_0"]
    flat = computed(prepared.model, port_input_0=array)
    for one, other in zip(computed(made, input_1=array), flat, strict=True):
        np.testing.assert_array_equal(one.ravel(), other.ravel())


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_only_a_state_of_zeros_is_left_out(fill: float) -> None:
    made = model(
        [
            helper.make_node("Shape", ["x"], ["shape"], start=1, end=2),
            helper.make_node("Concat", ["one", "shape", "hidden"], ["size"], axis=0),
            helper.make_node(
                "ConstantOfShape", ["size"], ["h"], value=helper.make_tensor("v", 1, [1], [fill])
            ),
            helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["", "y"], hidden_size=3),
        ],
        [value("x", 5, "batch", 4)],
        [value("y", 1, "batch", 3)],
        [
            weight("w", 1, 9, 4),
            weight("r", 1, 9, 3),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array([3]), "hidden"),
        ],
    )
    array = RNG.standard_normal((5, 2, 4)).astype(np.float32)
    before = computed(made, x=array)
    graphs.drop_zero_states(made.graph)
    assert (operators(made) == ["GRU"]) is (fill == 0.0)
    np.testing.assert_array_equal(before, computed(made, x=array))


def recurrent(kind: str, *shape: int | str) -> Any:
    gates = {"LSTM": 12, "GRU": 9}[kind]
    return model(
        [helper.make_node(kind, ["x", "w", "r"], ["", "y"], hidden_size=3, name="/r")],
        [value("x", *shape)],
        [value("y", 1, "n", 3)],
        [weight("w", 1, gates, 4), weight("r", 1, gates, 3)],
    )


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        ("LSTM", ("time", "batch", 4), "operator LSTM (layer /r) .* dynamic batch"),
        ("GRU", ("time", 1, 4), "operator GRU (layer /r) .* dynamic sequence length"),
    ],
)
def test_recurrence_over_a_dynamic_dimension_is_refused(
    tmp_path: Path, kind: str, shape: tuple[int | str, ...], said: str
) -> None:
    with pytest.raises(StageError, match=said.replace("(", r"\(").replace(")", r"\)")):
        graphs.prepare(saved(tmp_path, recurrent(kind, *shape)))


def test_lstm_takes_a_dynamic_length(tmp_path: Path) -> None:
    prepared = graphs.prepare(saved(tmp_path, recurrent("LSTM", "time", 1, 4)))
    assert prepared.inputs[0].shape == (None, 1, 4)


def test_squeezes_become_reshapes_that_follow_the_batch(tmp_path: Path) -> None:
    made = model(
        [
            helper.make_node("Unsqueeze", ["x", "axes"], ["u"]),
            helper.make_node("Squeeze", ["t", "axes"], ["s"]),
        ],
        [value("x", "batch", 4), value("t", "batch", 1, "time")],
        [value("u", "batch", 1, 4), value("s", "batch", "time")],
        [numpy_helper.from_array(np.array([1]), "axes")],
    )
    prepared = graphs.prepare(saved(tmp_path, made))
    # Two dynamic dimensions are more than a constant shape can say.
    assert operators(prepared.model)[:2] == ["Reshape", "Squeeze"]
    flat = computed(
        prepared.model, input_0=np.ones((3, 4), np.float32), input_1=np.ones((3, 1, 2), np.float32)
    )
    assert [array.shape for array in flat] == [(12, 1, 1), (6, 1, 1)]


def test_softmax_of_an_old_opset_keeps_its_meaning(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Softmax", ["x"], ["y"], axis=1)],
        [value("x", 2, 3, 4)],
        [value("y", 2, 3, 4)],
        opset=11,
    )
    prepared = graphs.prepare(saved(tmp_path, made))
    assert prepared.model.opset_import[0].version == graphs.MINIMUM_OPSET
    array = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    flat = np.exp(array.reshape(2, 12))
    np.testing.assert_allclose(
        computed(prepared.model, input_0=array)[0].ravel(),
        (flat / flat.sum(1, keepdims=True)).ravel(),
        rtol=1e-5,
    )


def test_an_opset_that_cannot_be_raised_is_said(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=1)],
        [value("x", 2)],
        [value("y", 2)],
        opset=8,
    )
    with pytest.raises(StageError, match=r"operator Scan .* of an opset below 9"):
        graphs.prepare(saved(tmp_path, made))


def test_more_than_a_file_can_hold_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", 2)], [value("y", 2)])
    monkeypatch.setattr(graphs, "FILE_LIMIT", 10)
    with pytest.raises(StageError, match="larger than 2 GB"):
        graphs.prepare(saved(tmp_path, made))


def test_ports_are_renamed_in_inner_graphs_too() -> None:
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "then", [], [value("n", 2)])
    other = helper.make_graph([], "else", [], [value("x", 2)])
    made = model(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)],
        [value("x", 2), value("c", kind=TensorProto.BOOL)],
        [value("y", 2)],
    )
    graphs.isolate_ports(made, *graphs.declared_ports(made.graph))
    branches = {item.name: item.g for item in made.graph.node[0].attribute}
    assert branches["then_branch"].node[0].input == ["input_0"]
    assert branches["else_branch"].output[0].name == "input_0"


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ([("batch", 3)], "batch"),
        ([("batch", 3), ("batch", 2)], "batch"),
        ([(1, 3)], None),
        ([("batch", "time")], None),
        ([(2, "time")], None),
        ([("", 3)], None),
    ],
)
def test_a_batch_is_the_one_dynamic_dimension_and_comes_first(
    tmp_path: Path, shapes: list[tuple[int | str, ...]], name: str | None
) -> None:
    inputs = [value(f"x{index}", *shape) for index, shape in enumerate(shapes)]
    if shapes == [("", 3)]:
        inputs[0].type.tensor_type.shape.dim[0].Clear()
    made = model([helper.make_node("Relu", ["x0"], ["y"])], inputs, [value("y", "n", "m")])
    assert graphs.batch_of(saved(tmp_path, made)) == name


def test_the_second_dimension_of_a_recurrent_layer_is_a_batch(tmp_path: Path) -> None:
    path = saved(tmp_path, recurrent("LSTM", 5, "n", 4))
    assert graphs.batch_of(path) == "n"
    prepared = graphs.prepare(path, shapes={"x": (5, 2, 4)})
    assert prepared.inputs[0].shape == (5, None, 4)
    assert "LSTM" not in operators(prepared.model)


def test_recurrent_layers_have_the_lengths_of_the_greatest_inputs(tmp_path: Path) -> None:
    path = saved(tmp_path, recurrent("GRU", "t", "n", 4))
    found = recurrent_lengths(path, {"x": (5, 2, 4)}, {"x": (9, 3, 4)})
    assert found == {"/r": 9}
    with pytest.raises(StageError, match="too many steps"):
        recurrent_lengths(path, {"x": (5, 2, 4)}, {"x": (500, 3, 4)})
    path = saved(tmp_path, recurrent("GRU", 5, "n", 4))
    assert recurrent_lengths(path, {"x": (5, 2, 4)}, {"x": (5, 3, 4)}) == {}
    path = saved(tmp_path, recurrent("LSTM", "t", 1, 4))
    assert recurrent_lengths(path, {"x": (5, 1, 4)}, {"x": (500, 1, 4)}) == {}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_layers_of_several_lengths_have_as_many_steps(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, recurrent(kind, "t", "n", 4))
    found = [
        operators(graphs.prepare(path, shapes={"x": shape}, lengths={"/r": 9}).model)
        for shape in ((5, 2, 4), (9, 3, 4))
    ]
    assert found[0] == found[1]
    assert kind not in found[0]
