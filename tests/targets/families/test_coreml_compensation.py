"""What the weights of a ML Program are multiplied by, in programs made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.targets.families.coreml_compensation import Weight, weights
from crosscast.targets.families.mil.program import Block, Constant, Operation, Port, Type

RNG = np.random.default_rng(0)


def held(name: str, array: np.ndarray) -> Operation:
    constant = Constant(type=Type(dtype="fp32", shape=array.shape), value=array)
    return Operation(
        type="const",
        name=name,
        arguments={"val": (constant,)},
        outputs=(Port(name=name, type=constant.type),),
    )


def text(value: str) -> Constant:
    return Constant(type=Type(dtype="str"), value=value)


def op(kind: str, output: str, **arguments: Any) -> Operation:
    given = {key: (value,) for key, value in arguments.items()}
    outputs = (Port(name=output, type=Type(dtype="fp32")),)
    return Operation(type=kind, name=output, arguments=given, outputs=outputs)


CONV = RNG.normal(size=(4, 2, 3, 3)).astype(np.float32)
DENSE = RNG.normal(size=(5, 6)).astype(np.float32)


def found(*operations: Operation) -> dict[str, Weight]:
    made = [held("w", CONV), held("d", DENSE), held("strides", np.array([2, 1])), *operations]
    return dict(weights(Block(outputs=(), operations=tuple(made))))


def test_convolutions_and_linear_operators_have_weights() -> None:
    by_name = found(
        op("conv", "h", x="x", weight="w", strides="strides", pad_type=text("same")),
        op("linear", "y", x="h", weight="d"),
    )
    assert list(by_name) == ["w", "d"]
    assert by_name["w"].filters.shape == (1, 4, 18)
    assert by_name["d"].read == "h"


@pytest.mark.parametrize(
    "operations",
    [
        [op("matmul", "y", x="x", y="d")],
        [op("linear", "y", x="x", weight="d"), op("linear", "z", x="x", weight="d")],
        [op("linear", "y", x="x", weight="made")],
        [op("linear", "y", x=text("constant"), weight="d")],
    ],
)
def test_others_are_left_alone(operations: list[Operation]) -> None:
    assert "d" not in found(*operations)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pad_type": text("same")},
        {"pad_type": text("custom"), "pad": "pad"},
        {"strides": "strides", "pad_type": text("same_lower")},
    ],
)
def test_rows_are_what_filters_are_multiplied_by(settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    conv = pytest.importorskip("crosscast.targets.families.mil.ops.conv")
    made = [held("pad", np.array([1, 0, 2, 1])), op("conv", "y", x="x", weight="w", **settings)]
    weight = found(*made)["w"]
    x = RNG.normal(size=(2, 2, 7, 6)).astype(np.float32)
    rows = weight.rows(x, 10**6)
    values = {"pad": [1, 0, 2, 1], "strides": [2, 1]}
    given = {
        key: values[one] if isinstance(one, str) else one.value for key, one in settings.items()
    }
    wanted = conv.conv(x=torch.from_numpy(x), weight=torch.from_numpy(CONV), **given)
    answers = (rows @ weight.filters[0].T).reshape(2, *wanted.shape[2:], 4)
    np.testing.assert_allclose(answers.transpose(0, 3, 1, 2), wanted, atol=1e-4)
