"""The dynamic dimensions of an ONNX graph, and the sizes that it is converted at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from crosscast.pipeline.signature import Signature
from crosscast.targets.families.tflite_numbers import Point

SIGNATURE = "signature.json"

PREFERRED = ((2, 3), (5, 8), (11, 14), (17, 20), (23, 26))
"""Sizes of each dimension in turn that no product or sum of others is mistaken for, one odd and one
even, since halves are rounded. None is 1, which converters take for a dimension of no account."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The least and greatest size of a dimension, and what sizes are multiples of.

    high: None where it is not told.
    """

    low: int = 1
    high: int | None = None
    step: int = 1

    @classmethod
    def of(cls, signature: Signature, name: str) -> Self:
        """What a signature declares."""
        low, high = signature.dims.get(name, (1, None))
        return cls(low=low, high=high, step=signature.steps.get(name, 1))

    def pair(self, preferred: tuple[int, int]) -> tuple[int, int]:
        """Two sizes beyond 1, within the bounds as far as these have two."""
        first = max(self.low, 2, preferred[0])
        if self.high is not None and self._on_step(first) + self.step > self.high:
            first = max(self.low, 2, self.high - self.step)
        first = self._on_step(first)
        second = max(first + self.step, self._on_step(preferred[1]))
        if self.high is not None and second > self.high:
            second = first + self.step
        return first, second

    def _on_step(self, size: int) -> int:
        return -(-size // self.step) * self.step


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Which dimensions of a graph's inputs are dynamic.

    inputs: shapes, a name for each dynamic dimension.
    batch: the name of the one dimension, where it is a lone batch.
    """

    inputs: Mapping[str, tuple[int | str, ...]]
    bounds: Mapping[str, Bounds]
    batch: str | None = None

    def shapes(self, point: Point) -> dict[str, tuple[int, ...]]:
        """The inputs' shapes at a point."""
        return {
            name: tuple(point[dim] if isinstance(dim, str) else dim for dim in shape)
            for name, shape in self.inputs.items()
        }

    @property
    def is_bounded(self) -> bool:
        """Whether `points` have the greatest size of each dimension."""
        return self.batch is None

    def points(self) -> list[dict[str, int]]:
        """Where to convert: a first point, for each dimension one where it alone is greater, and
        the greatest sizes, which tell a product from a sum.

        No two dimensions ever have one size, which would let a converter take one tensor for
        another; one that is kept below its greatest size for that has it at a point of its own.
        A lone batch needs no more than two points.
        """
        pairs = self._pairs()
        first = {name: pair[0] for name, pair in pairs.items()}
        raised = [{**first, name: pair[1]} for name, pair in pairs.items()]
        if self.batch is not None:
            return [first, *raised]
        most, last = self._greatest(), dict[str, int]()
        for name, size in most.items():
            steps = range(size, pairs[name][1], -self.bounds[name].step)
            last[name] = next((each for each in steps if each not in last.values()), size)
        rest = [{**first, name: size} for name, size in most.items() if last[name] < size]
        return [first, *raised, last, *rest]

    def trials(self) -> list[dict[str, int]]:
        """Where a file has to run: the least sizes, some between, and the greatest."""
        least = {name: bounds.low for name, bounds in self.bounds.items()}
        between = {name: pair[1] for name, pair in self._pairs().items()}
        every = [least, between, self._greatest()]
        return [point for index, point in enumerate(every) if point not in every[:index]]

    def _greatest(self) -> dict[str, int]:
        pairs = self._pairs()
        return {name: max(b.high or 0, pairs[name][1]) for name, b in self.bounds.items()}

    def _pairs(self) -> dict[str, tuple[int, int]]:
        """The two small sizes of each dimension."""
        preferred = [*PREFERRED, *PREFERRED[-1:] * len(self.bounds)]
        return {
            name: bounds.pair(wanted)
            for (name, bounds), wanted in zip(self.bounds.items(), preferred, strict=False)
        }


def sizes_of(source: Path, *, batch: str | None) -> Sizes | None:
    """The dynamic dimensions of an ONNX file, with the bounds that the signature beside it
    declares; None where there are none, or some that it does not tell.

    batch: the name of the one dynamic dimension in the file, where it is a batch.
    """
    import onnx

    graph = onnx.load(str(source), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in weights]
    signature = _declared(source)
    shapes = {tensor.name: tensor.shape for tensor in signature.inputs}
    inputs = {value.name: _named(value, shapes.get(value.name, ()), batch) for value in values}
    names = dict.fromkeys(dim for shape in inputs.values() for dim in shape if isinstance(dim, str))
    if not names or not set(names) <= {batch, *signature.dims}:
        return None
    bounds = {name: Bounds.of(signature, name) for name in names}
    return Sizes(inputs=inputs, bounds=bounds, batch=next(iter(names)) if batch else None)


def _declared(source: Path) -> Signature:
    """The signature beside an ONNX file; an empty one where there is none."""
    path = source.parent / SIGNATURE
    if not path.is_file():
        return Signature(inputs=())
    return Signature.from_json(json.loads(path.read_text(encoding="utf-8")))


def _named(value: Any, names: Sequence[int | str], default: str | None) -> tuple[int | str, ...]:
    """The shape that the file declares, its dynamic dimensions by these names; `default` for one
    that they do not tell.
    """
    dims = value.type.tensor_type.shape.dim
    known = names if len(names) == len(dims) else [0] * len(dims)
    return tuple(
        dim.dim_value
        if dim.HasField("dim_value")
        else (name if isinstance(name, str) else default or "")
        for dim, name in zip(dims, known, strict=True)
    )
