"""What fp16 does not hold of the values of a program."""

from __future__ import annotations

import numpy as np
import pytest

from crosscast.targets.families.mil.program import (
    Block,
    Constant,
    Function,
    Operation,
    Port,
    Type,
)

torch = pytest.importorskip("torch")
evaluate = pytest.importorskip("crosscast.targets.families.mil.evaluate")
losses = pytest.importorskip("crosscast.targets.families.mil.losses")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, -65504.0], None),
        ([0.0, 0.0], None),
        ([], None),
        ([1.0, 7e4], "overflow"),
        ([2e-8, 1e-8], "underflow"),
        ([1e-20, -3e-30], "underflow"),
        ([1.0, 1e-20], None),  # what is lost does not count beside what is there
        ([1e-4, 2e-4], None),
        ([float("inf"), 1.0], "undefined"),
        ([float("nan"), 1.0], "undefined"),
    ],
)
def test_a_tensor_is_held_or_lost(values: list[float], kind: str | None) -> None:
    found = losses.loss(torch.tensor(values, dtype=torch.float32))
    assert (found and found[0]) == kind


def op(kind: str, output: str, dtype: str, x: str, y: str | float) -> Operation:
    operand: str | Constant = y if isinstance(y, str) else number(y)
    return Operation(
        type=kind,
        name=output,
        arguments={"x": (x,), "y": (operand,)},
        outputs=(Port(name=output, type=Type(dtype=dtype, shape=(2,))),),
    )


def number(value: float) -> Constant:
    return Constant(type=Type(dtype="fp32"), value=np.array(value, np.float32))


def watched(*steps: Operation, declared: str = "fp16") -> list[str]:
    watch = losses.Watch(declared)
    x = Port(name="x", type=Type(dtype=declared, shape=(2,)))
    block = Block(outputs=("y",), operations=steps)
    made = Function(inputs=(x,), opset=16, block=block)
    runner = evaluate.Evaluator(made, ideal=True, watch=watch)
    for x in ([1.0, 2.0], [2.0, 3.0]):
        runner.run({"x": np.array(x, np.float32)})
    return [str(each) for each in watch.found.values()]


def test_the_operator_and_its_greatest_value_are_named() -> None:
    steps = [
        op("mul", "h", "fp16", "x", 3e4),
        op("mul", "y", "fp16", "h", 1e-4),
    ]
    assert watched(*steps) == ["mul 'h' overflows fp16 (9e+04)"]


def test_what_computes_in_fp32_loses_nothing_unless_it_is_asked_what_it_would() -> None:
    steps = [
        op("mul", "h", "fp32", "x", 1e-9),
        op("mul", "y", "fp32", "h", 1e9),
    ]
    assert watched(*steps, declared="fp32") == ["mul 'h' underflows fp16 (3e-09)"]
    assert watched(*steps) == []


def test_a_division_by_what_was_lost_before_is_named() -> None:
    steps = [
        op("mul", "h", "fp16", "x", 0.0),
        op("real_div", "y", "fp16", "x", "h"),
    ]
    assert watched(*steps) == ["real_div 'y' gives what is no number"]
