"""What operators are given: arguments as a function's annotations ask for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from crosscast.pipeline.errors import StageError, Unproven

Tensor: TypeAlias = Any
"""A torch.Tensor: of float32, int32, int64 or bool."""
Ints: TypeAlias = list[int]
Bools: TypeAlias = list[bool]
Tensors: TypeAlias = list[Any]
"""Several tensors in order."""
Op: TypeAlias = Callable[..., Any]
Since: TypeAlias = Mapping[int, Op]
"""Functions by the first iOS whose opset they follow."""


IGNORED = frozenset(("validate_indices", "sort"))
"""What says nothing about the numbers: whether indices are checked (they are), and whether the
largest elements are sorted (they are, since no other order is told).
"""


def unknown(operator: str, attribute: str, value: object) -> Unproven:
    """That the evaluator does not know a value of an attribute."""
    return Unproven(f"evaluator has no {operator} with {attribute} {value!r}")


class Invalid(StageError):
    """An operator was given what it does not take: the program is wrong, or its inputs."""


class Signature:
    """How a function of an operator takes its arguments: as it annotates them."""

    def __init__(self, operator: str, function: Op) -> None:
        self.operator = operator
        self.function = function
        self._kinds = {
            name: str(parameter.annotation).removesuffix(" | None")
            for name, parameter in inspect.signature(function).parameters.items()
        }

    def check(self, names: Iterable[str]) -> None:
        """Raise Unproven for an argument that the function does not have."""
        for name in names:
            if name not in self._kinds:
                raise Unproven(f"evaluator has no {self.operator} with '{name}'")

    def argument(self, name: str, values: Sequence[Any]) -> Any:
        """The argument `name` of values that the program gives."""
        return CONVERT[self._kinds[name]](values)


def _only(values: Sequence[Any]) -> Any:
    (value,) = values
    return value


def _ints(values: Sequence[Any]) -> list[int]:
    if len(values) > 1:
        return [int(value) for value in values]
    return [int(value) for value in values[0].reshape(-1).tolist()]


def _bools(values: Sequence[Any]) -> list[bool]:
    return [bool(value) for value in _ints(values)]


def _scalar(kind: Callable[[Any], Any]) -> Callable[[Sequence[Any]], Any]:
    def scalar(values: Sequence[Any]) -> Any:
        value = _only(values)
        return kind(value if isinstance(value, str) else value.item())

    return scalar


CONVERT: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "Tensor": _only,
    "Any": _only,
    "Tensors": list,
    "Ints": _ints,
    "Bools": _bools,
    "int": _scalar(int),
    "float": _scalar(float),
    "bool": _scalar(bool),
    "str": _scalar(str),
}
