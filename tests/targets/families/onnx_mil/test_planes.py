"""Pixels to planes: the same numbers, and no transposes where the model takes planes itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from crosscast.targets.families.onnx_mil.planes import from_planes  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
HELD = {
    "order": np.int64([2, 1, 0]),
    "factor": np.float32([0.1, 0.2, 0.3]),
    "shift": np.float32([-1]),
    "table": np.float32([[[1, 2, 3]]]),
}
BGR = ("Gather", "order", {"axis": 3})
FLOAT = ("Cast", "", {"to": TensorProto.FLOAT})
SCALE, SHIFT = ("Mul", "factor", {}), ("Add", "shift", {})
PLANES = ("Transpose", "", {"perm": [0, 3, 1, 2]})
END = ("Relu", "", {})


def model(*steps: tuple[str, str, dict[str, Any]]) -> Any:
    nodes, value = [], "x"
    for index, (operator, constant, attributes) in enumerate(steps):
        given = [constant, value] if operator == "Add" else [value, *([constant] * bool(constant))]
        made = "y" if index == len(steps) - 1 else f"v{index}"
        nodes.append(helper.make_node(operator, given, [made], **attributes))
        value = made
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 4, 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(array, name) for name, array in HELD.items()],
        value_info=[helper.make_tensor_value_info("v1", TensorProto.FLOAT, ["n", 4, 5, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ((BGR, FLOAT, SCALE, SHIFT, PLANES, END), "Gather Cast Mul Add Relu"),
        ((FLOAT, PLANES, END), "Cast Relu"),
        ((FLOAT, SCALE, END), "Cast Mul Transpose Relu"),
        ((FLOAT, ("Mul", "table", {}), PLANES, END), "Cast Transpose Mul Transpose Relu"),
        ((BGR, ("Identity", "", {})), "Gather Transpose Cast Identity"),
        ((FLOAT, SCALE), "Cast Transpose Mul"),
        ((PLANES, FLOAT, END), "Transpose Cast Transpose Cast Relu"),
    ],
)
def test_planes_give_what_pixels_gave(steps: Any, left: str) -> None:
    honest, changed = model(*steps), from_planes(model(*steps), "x")
    assert [node.op_type for node in changed.graph.node] == left.split()
    (wanted,) = ReferenceEvaluator(honest).run(None, {"x": PIXELS})
    planes = PIXELS.transpose(0, 3, 1, 2).astype(np.float32)
    (found,) = ReferenceEvaluator(changed).run(None, {"x": planes})
    np.testing.assert_array_equal(found, wanted)


def test_the_input_is_declared_as_planes() -> None:
    changed = from_planes(model(FLOAT, SCALE, PLANES, END), "x")
    declared = changed.graph.input[0].type.tensor_type
    assert declared.elem_type == TensorProto.FLOAT
    assert [dim.dim_param or dim.dim_value for dim in declared.shape.dim] == ["n", 3, 4, 5]
    assert not changed.graph.value_info


def test_pixels_that_a_branch_reads_too_stay_pixels() -> None:
    honest = model(FLOAT, PLANES, END)
    branch = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT)],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    honest.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "flag"))
    node = helper.make_node("If", ["flag"], ["w"], then_branch=branch, else_branch=branch)
    honest.graph.node.append(node)
    changed = from_planes(honest, "x")
    assert [node.op_type for node in changed.graph.node][:2] == ["Transpose", "Cast"]
    assert changed.graph.node[-1].attribute[0].g.node[0].input[0] == "x_whole"
