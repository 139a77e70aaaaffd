"""Programs made by hand: rounding, blocks, states, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.targets.families.mil.program import (
    Block,
    Constant,
    Function,
    Operation,
    Port,
    Type,
    operations,
)

torch = pytest.importorskip("torch")
evaluate = pytest.importorskip("crosscast.targets.families.mil.evaluate")
table = pytest.importorskip("crosscast.targets.families.mil.ops.table")


def const(value: Any, dtype: str = "fp32") -> Constant:
    array = value if isinstance(value, str) else np.array(value, NUMPY.get(dtype, dtype))
    shape = () if isinstance(value, str) else array.shape
    return Constant(type=Type(dtype=dtype, shape=shape), value=array)


NUMPY = {"fp32": "float32", "fp16": "float16"}


def op(
    kind: str,
    output: str,
    declared: str = "fp32",
    shape: tuple[int | None, ...] = (2,),
    blocks: tuple[Block, ...] = (),
    /,
    **arguments: Any,
) -> Operation:
    outputs = (Port(name=output, type=Type(dtype=declared, shape=shape)),) if output else ()
    given = {
        name: value if isinstance(value, tuple) else (value,) for name, value in arguments.items()
    }
    return Operation(type=kind, name=output, arguments=given, outputs=outputs, blocks=blocks)


def function(
    *steps: Operation,
    outputs: tuple[str, ...] = ("y",),
    dtype: str = "fp32",
    opset: int = 16,
    ports: tuple[Port, ...] = (),
) -> Function:
    block = Block(outputs=outputs, operations=steps)
    x = Port(name="x", type=Type(dtype=dtype, shape=(2,)))
    return Function(inputs=(x, *ports), opset=opset, block=block)


def run(made: Function, x: Any = (1.0, 2.0), *, ideal: bool = False) -> list[Any]:
    given = {"x": np.array(x, np.float32)}
    outputs = evaluate.Evaluator(made, ideal=ideal).run(given)
    return [value.tolist() for value in outputs.values()]


def test_float16_is_rounded_to_where_it_is_declared() -> None:
    made = function(op("mul", "y", "fp16", x="x", y=const(1.0001)))
    assert run(made) == [[1.0, 2.0]]
    assert run(made, ideal=True)[0] == pytest.approx([1.0001, 2.0002])


def test_float16_overflows() -> None:
    made = function(op("mul", "y", "fp16", x="x", y=const(60000.0)))
    assert run(made) == [[60000.0, np.inf]]
    assert run(made, ideal=True) == [[60000.0, 120000.0]]


def test_inputs_are_rounded_to_what_the_program_declares() -> None:
    made = function(op("identity", "y", "fp16", x="x"), dtype="fp16")
    assert run(made, (1.0001, 2.0)) == [[1.0, 2.0]]


def test_what_only_moves_numbers_is_known() -> None:
    assert set(evaluate.EXACT) <= set(table.OPS)


def test_epsilons_are_as_the_file_has_them() -> None:
    tiny = function(op("log", "y", "fp16", x="x", epsilon=const(1e-45, "fp16")))
    assert run(tiny, (0.0, 1.0)) == [[-np.inf, 0.0]]


def test_sums_of_float16_are_float32() -> None:
    x = Port(name="w", type=Type(dtype="fp16", shape=(4096,)))
    total = op("reduce_sum", "y", "fp16", (), x="w")
    made = evaluate.Evaluator(function(total, ports=(x,)))
    assert float(made.run({"x": np.zeros(2), "w": np.ones(4096)})["y"]) == 4096


def test_integers_are_cut_and_booleans_are_booleans() -> None:
    steps = [
        op("cast", "i", "int32", x="x", dtype=const("int32", "str")),
        op("greater", "y", "bool", x="i", y=const(1, "int32")),
    ]
    assert run(function(*steps, outputs=("i", "y")), (1.9, 2.9)) == [[1, 2], [False, True]]


def branch(value: float) -> Block:
    return Block(outputs=("b",), operations=(op("add", "b", x="x", y=const(value)),))


@pytest.mark.parametrize(("flag", "wanted"), [(True, [2.0, 3.0]), (False, [11.0, 12.0])])
def test_branches_read_what_is_around_them(flag: bool, wanted: list[float]) -> None:
    made = function(
        op("cond", "y", "fp32", (2,), (branch(1.0), branch(10.0)), pred=const(flag, "bool")),
    )
    assert run(made) == [wanted]


def test_loops_carry_their_values() -> None:
    ports = tuple(
        Port(name=name, type=Type(dtype=dtype, shape=shape))
        for name, dtype, shape in (("n", "int32", ()), ("s", "fp32", (2,)))
    )
    going = op("less", "go", "bool", (), x="n", y=const(3, "int32"))
    more = [
        op("add", "n2", "int32", (), x="n", y=const(1, "int32")),
        op("mul", "s2", x="s", y=const(2.0)),
    ]
    blocks = (
        Block(inputs=ports, outputs=("go",), operations=(going,)),
        Block(inputs=ports, outputs=("n2", "s2"), operations=tuple(more)),
    )
    loop = Operation(
        type="while_loop",
        name="loop",
        arguments={"loop_vars": (const(0, "int32"), "x")},
        outputs=tuple(Port(name=f"{port.name}_end", type=port.type) for port in ports),
        blocks=blocks,
    )
    made = function(loop, outputs=("n_end", "s_end"))
    assert run(made) == [3, [8.0, 16.0]]
    assert [step.type for step in operations(made.block)] == ["while_loop", "less", "add", "mul"]


def test_values_that_are_named_again_after_their_last_use_are_their_own() -> None:
    steps = [
        op("add", "a", x="x", y=const(1.0)),
        op("mul", "b", x="a", y="a"),
        op("add", "y", x="b", y="x"),
    ]
    assert run(function(*steps, outputs=("y", "x"))) == [[5.0, 11.0], [1.0, 2.0]]


def test_constants_may_be_outputs_and_compressed() -> None:
    dense = op(
        "constexpr_affine_dequantize", "w", quantized_data=const([2, 4], "int8"),
        zero_point=const(0, "int8"), scale=const(0.5), axis=const(0, "int32"),
    )  # fmt: skip
    assert run(function(dense, op("mul", "y", x="x", y="w"), outputs=("y", "w"))) == [
        [1.0, 4.0],
        [1.0, 2.0],
    ]


def test_states_stay_between_calls() -> None:
    state = Port(name="kept", type=Type(dtype="fp16", shape=(2,), state=True))
    steps = [
        op("read_state", "old", "fp16", input="kept"),
        op("add", "y", "fp16", x="old", y="x"),
        op("write_state", "", input="kept", data="y"),
    ]
    made = function(*steps, ports=(state,), opset=18)
    evaluator = evaluate.Evaluator(made)
    states = evaluate.fresh_states(made)
    given = {"x": np.ones(2)}
    assert [evaluator.run(given, states)["y"][0].item() for _ in range(3)] == [1, 2, 3]
    assert evaluator.run(given)["y"][0].item() == 1


def test_lists() -> None:
    steps = [
        op("make_list", "l0", "list", (), elem_shape=const([2], "int32")),
        op("list_write", "l1", "list", (), ls="l0", index=const(2, "int32"), value="x"),
        op("list_length", "n", "int32", (), ls="l1"),
        op("list_gather", "y", "fp32", (2, 2), ls="l1", indices=const([2, 0], "int32")),
    ]
    assert run(function(*steps, outputs=("n", "y"))) == [3, [[1.0, 2.0], [0.0, 0.0]]]


def test_a_classifier_names_the_likeliest() -> None:
    classes = Constant(type=Type(dtype="list"), value=["cat", "dog"])
    outputs = (
        Port(name="label", type=Type(dtype="str")),
        Port(name="all", type=Type(dtype="dict")),
    )
    step = Operation(
        type="classify",
        name="c",
        arguments={"probabilities": ("x",), "classes": (classes,)},
        outputs=outputs,
    )
    made = evaluate.Evaluator(function(step, outputs=("label", "all")))
    found = made.run({"x": np.array([0.25, 0.75], np.float32)})
    assert found == {"label": "dog", "all": {"cat": 0.25, "dog": 0.75}}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (op("fft", "y", x="x"), "evaluator has no fft"),
        (op("relu", "y", x="x", slope=const(0.1)), "evaluator has no relu with 'slope'"),
        (
            op("gelu", "y", x="x", mode=const("FAST", "str")),
            "evaluator has no gelu with mode 'FAST'",
        ),
    ],
)
def test_what_is_not_known_is_unproven(step: Operation, said: str) -> None:
    with pytest.raises(Unproven, match=said):
        run(function(step))


def test_unknown_operators_are_found_before_anything_runs() -> None:
    inner = Block(outputs=("b",), operations=(op("fft", "b", x="x"),))
    made = function(op("cond", "y", "fp32", (2,), (branch(1.0), inner), pred=const(True, "bool")))
    with pytest.raises(Unproven, match="evaluator has no fft"):
        evaluate.Evaluator(made)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            op("relu", "y", "fp32", (3,), x="x"),
            r"relu 'y': gives the shape \(2,\), declared is \(3,\)",
        ),
        (op("relu", "y", x="z"), "the program reads 'z', which nothing gives"),
        (op("add", "y", x="x", y=const([1.0, 2.0, 3.0])), "add 'y': The size of tensor a"),
        (
            op("split", "y", x="x", axis=const(0, "int32"), num_splits=const(2, "int32")),
            "split 'y': gives 2 values, the program has 1",
        ),
        (
            op("gather", "y", x="x", indices=const([0, 9], "int32")),
            "gather 'y': index 9 is outside an axis of 2",
        ),
    ],
)
def test_errors_name_their_operator(step: Operation, said: str) -> None:
    with pytest.raises(StageError, match=said):
        run(function(step))
