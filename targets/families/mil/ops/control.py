"""Lists, states and the classifier's last operator. Branches and loops are the evaluator's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from crosscast.targets.families.mil.ops.arguments import Ints, Invalid, Op, Since, Tensor


@dataclass
class State:
    """What a model keeps from one prediction to the next."""

    value: Tensor


@dataclass(frozen=True)
class Items:
    """A list of tensors, of zeros until they are written. Never changed: writing gives another.

    grows: whether writing beyond the end makes it longer.
    """

    blank: Tensor
    values: tuple[Tensor, ...]
    grows: bool


def make_list(
    *,
    elem_shape: Ints,
    init_length: int = 1,
    dynamic_length: bool = True,
    dtype: str = "fp32",
) -> Items:
    kind = torch.float32 if dtype.startswith("fp") else torch.int32
    blank = torch.zeros(elem_shape, dtype=torch.bool if dtype == "bool" else kind)
    return Items(blank, (blank,) * init_length, dynamic_length)


def list_length(*, ls: Any) -> Tensor:
    return torch.tensor(len(ls.values), dtype=torch.int32)


def list_write(*, ls: Any, index: int, value: Tensor) -> Items:
    values = list(ls.values)
    if index >= len(values) and ls.grows:
        values += [torch.zeros_like(value)] * (index + 1 - len(values))
    if not 0 <= index < len(values):
        raise Invalid(f"index {index} is outside a list of {len(values)}")
    values[index] = value
    return Items(ls.blank, tuple(values), ls.grows)


def list_read(*, ls: Any, index: int) -> Tensor:
    if not 0 <= index < len(ls.values):
        raise Invalid(f"index {index} is outside a list of {len(ls.values)}")
    return ls.values[index]


def list_gather(*, ls: Any, indices: Ints) -> Tensor:
    return torch.stack([list_read(ls=ls, index=index) for index in indices])


def list_scatter(*, ls: Any, indices: Ints, value: Tensor) -> Items:
    for index, item in zip(indices, value, strict=True):
        ls = list_write(ls=ls, index=index, value=item)
    return ls  # type: ignore[no-any-return]


def read_state(*, input: Any) -> Tensor:
    return input.value


def write_state(*, input: Any, data: Tensor) -> tuple[()]:
    input.value = data
    return ()


def classify(*, probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The likeliest class, and the probability of each."""
    values = probabilities.reshape(-1).tolist()
    names = classes.tolist() if isinstance(classes, torch.Tensor) else list(classes)
    if len(names) != len(values):
        raise Invalid(f"{len(values)} probabilities for {len(names)} classes")
    best = max(range(len(values)), key=values.__getitem__)
    return names[best], dict(zip(names, values, strict=True))


OPS: Mapping[str, Op | Since] = {
    function.__name__: function
    for function in (
        make_list, list_length, list_write, list_read, list_gather, list_scatter, read_state,
        write_state, classify,
    )
}  # fmt: skip
