"""What operators compute in, and bad parameters, on files made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.targets.base import Computing, Precision
from crosscast.targets.families import onnx_runtime
from crosscast.targets.families.onnx import save

onnx = pytest.importorskip("onnx")
make = onnx.helper.make_node

WEIGHT = np.tile(np.int8([[-127, 64], [3, 127]]), (1, 4))
"""int8[2, 8]"""

NO_NUMBER = np.float32([[1, np.nan]])


def audit(tmp_path: Path, nodes: Sequence[Any], constants: dict[str, Any]) -> Precision:
    """The audit of a graph of these nodes: x, float32[8, 2] -> y."""
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 2])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    save(onnx.helper.make_model(graph), tree)
    return onnx_runtime.precision(artifact=tree)


def pairs(operator: str = "MatMul", *, result: str = "y") -> list[Any]:
    """An operator between its DequantizeLinear and, where it gives "h", a QuantizeLinear."""
    after = [
        make("QuantizeLinear", ["h", "s", "z"], ["q"]),
        make("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return [
        make("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        make("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        make("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
        make(operator, ["xd", "wd"], [result], name="product"),
        *(after if result == "h" else []),
    ]


def held(**more: Any) -> dict[str, Any]:
    return {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "w": WEIGHT,
        "ws": np.full(8, 0.01, np.float32),
        "wz": np.zeros(8, np.int8),
        **more,
    }


def only(found: Precision) -> Computing:
    (entry,) = found.operators
    return entry


@pytest.mark.parametrize(
    ("operator", "result", "form"),
    [
        ("MatMul", "y", "int8"),
        ("MatMul", "h", "int8"),
        ("Gemm", "y", "int8"),
        ("Conv", "h", "int8"),
        ("Conv", "y", "int8 weights"),  # ONNX Runtime has no such kernel
        ("ConvTranspose", "h", "int8 weights"),
    ],
)
def test_between_pairs_it_is_the_runtimes_kernels_that_decide(
    tmp_path: Path, operator: str, result: str, form: str
) -> None:
    entry = only(audit(tmp_path, pairs(operator, result=result), held()))
    assert (entry.name, entry.operator, entry.form) == ("product", operator, form)
    assert (entry.stored, entry.size) == ("int8", 16)


def test_a_relu_before_the_pair_is_part_of_it_and_a_second_reader_is_not(tmp_path: Path) -> None:
    nodes = pairs("Conv", result="h")
    nodes[3].output[0] = "c"
    nodes.insert(4, make("Relu", ["c"], ["h"]))
    assert only(audit(tmp_path, nodes, held())).form == "int8"
    nodes.append(make("Neg", ["c"], ["other"]))
    assert only(audit(tmp_path, nodes, held())).form == "int8 weights"


def test_activations_in_float_are_said(tmp_path: Path) -> None:
    nodes = pairs()[2:]
    nodes[1].input[0] = "x"
    found = audit(tmp_path, nodes, held())
    assert (only(found).arithmetic, only(found).form) == ("fp32", "int8 weights")
    assert not only(found).fell_back("int8")


def test_a_float_bias_keeps_a_convolution_in_float(tmp_path: Path) -> None:
    nodes = pairs("Conv", result="h")
    nodes[3].input.append("b")
    assert only(audit(tmp_path, nodes, held(b=np.zeros(2, np.float32)))).form == "int8 weights"


def test_integer_products_and_weights_behind_casts(tmp_path: Path) -> None:
    nodes = [
        make("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        make("MatMulInteger", ["xq", "w", "xz"], ["sums"]),
        make("Cast", ["sums"], ["wide"], to=1),
        make("Mul", ["wide", "ws"], ["h"]),
        make("Cast", ["w2"], ["w2f"], to=1),
        make("Mul", ["w2f", "ws2"], ["w2d"]),
        make("MatMul", ["h", "w2d"], ["y"]),
    ]
    more = {"w2": WEIGHT.T, "ws2": np.float32(0.02)}
    found = audit(tmp_path, nodes, held(**more))
    assert [entry.form for entry in found.operators] == ["int8", "int8 weights"]
    assert found.problems == ()
    (line,) = audit(tmp_path, nodes, held(**{**more, "ws2": np.float32(0)})).problems
    assert line == "'ws2' has the scale 0, which is no step's size"


def test_half_is_found_behind_a_cast_and_wide_weights_fell_back(tmp_path: Path) -> None:
    nodes = [
        make("Cast", ["x"], ["xh"], to=10),
        make("Softmax", ["xh"], ["sh"]),
        make("MatMul", ["sh", "w"], ["h"]),
        make("MatMul", ["h", "h"], ["hh"]),
        make("Cast", ["hh"], ["f"], to=1),
        make("MatMul", ["f", "v"], ["y"], name="last"),
    ]
    constants = {"w": np.ones((2, 2), np.float16), "v": np.ones((2, 2), np.float32)}
    operators = audit(tmp_path, nodes, constants).operators
    assert [entry.form for entry in operators] == ["fp16", "fp16", "fp32"]
    assert [entry.fell_back("fp16") for entry in operators] == [False, False, True]
    assert [entry.fell_back("int8") for entry in operators] == [True, False, True]


def test_an_embedding_is_no_weight_of_the_product_that_reads_it(tmp_path: Path) -> None:
    nodes = [make("Gather", ["table", "x"], ["e"]), make("MatMul", ["e", "w"], ["y"])]
    constants = {"table": np.ones((9, 2), np.float32), "w": np.ones((2, 3), np.float32)}
    assert only(audit(tmp_path, nodes, constants)).size == 24


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ({"ws": np.float32([0, *[0.1] * 7])}, "'w' has the scale 0, which is no step's size"),
        ({"ws": np.full(8, np.nan, np.float32)}, "'w' has the scale nan (and 7 more), which"),
        ({"ws": np.full(4, 0.1, np.float32)}, "'w' has 4 scales for 8 channels"),
        ({"w": np.zeros_like(WEIGHT)}, "'w' is all zero at the scale 0.01, which is larger"),
        ({"s": np.float32(-1)}, "'x' has the scale -1, which is no step's size"),
        (
            {"w": np.ones((2, 8), np.int32), "wz": np.int32([1] * 8)},
            "'w' has the zero point 1, out of 0 to 0 of int32",
        ),
    ],
)
def test_bad_parameters_are_said_with_their_tensor(
    tmp_path: Path, broken: dict[str, Any], line: str
) -> None:
    assert audit(tmp_path, pairs(), held()).problems == ()
    found = audit(tmp_path, pairs(), held(**broken)).problems
    assert found[0].startswith(line)


ADDED = np.float32([[0, -np.inf]])


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([make("Add", ["x", "c"], ["y"])], {"c": ADDED}),  # a mask
        ([make("Where", ["b", "x", "c"], ["y"])], {"b": np.array([[True, False]]), "c": NO_NUMBER}),
        ([make("Gemm", ["x", "w", "c"], ["y"])], {"w": np.ones((2, 2), np.float32), "c": ADDED[0]}),
    ],
)
def test_what_is_chosen_or_added_may_be_infinite(
    tmp_path: Path, nodes: Sequence[Any], constants: dict[str, Any]
) -> None:
    assert audit(tmp_path, nodes, constants).problems == ()


@pytest.mark.parametrize(
    ("nodes", "constant"),
    [
        ([make("Add", ["x", "c"], ["y"])], NO_NUMBER),
        ([make("Gather", ["c", "x"], ["y"])], NO_NUMBER),
        ([make("MatMul", ["x", "c"], ["y"])], ADDED),
        ([make("Cast", ["c"], ["d"], to=1), make("MatMul", ["x", "d"], ["y"])], np.float16(ADDED)),
        ([make("MatMulNBits", ["x", "q", "c"], ["y"], bits=4)], NO_NUMBER),
    ],
)
def test_what_poisons_sums_is_a_problem(
    tmp_path: Path, nodes: Sequence[Any], constant: Any
) -> None:
    (line,) = audit(tmp_path, nodes, {"c": constant}).problems
    assert line.startswith("'c' holds ")
