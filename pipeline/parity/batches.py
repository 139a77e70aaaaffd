"""Cases that are read, run and measured several at a time: how many, and along which axis. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Self

import numpy as np

from crosscast.pipeline.parity.samples import Case, dynamic_dims
from crosscast.pipeline.parity.vectors import Vector
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor

GROUP_BYTES = 1 << 22
"""Of a group's arrays, where it is more than one case: what is made of them in float64 to measure
them is some ten times as much."""

GROUP_CASES = 128
"""Enough for what numpy takes for a call to be shared by many cases."""


def groups(vectors: Iterable[Vector]) -> Iterator[list[Vector]]:
    """Successive vectors of the same origin and the same shapes, several at a time."""
    for form, alike in groupby(vectors, _form):
        while group := list(islice(alike, _most(form))):
            yield group


def _is_open(shape: Sequence[int | str], axis: int) -> bool:
    return axis < len(shape) and isinstance(shape[axis], str)


def _form(vector: Vector) -> tuple[Any, ...]:
    arrays = (*vector.case.arrays.items(), *vector.outputs.items())
    return (vector.case.origin, *[(name, array.shape, array.nbytes) for name, array in arrays])


def _most(form: tuple[Any, ...]) -> int:
    """How many vectors of a form are a group."""
    size = sum(int(bytes_) for _, _, bytes_ in form[1:])
    return max(1, min(GROUP_CASES, GROUP_BYTES // max(size, 1)))


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """How cases become one run: along which axis, by input and (in the artifact's layout) by
    output, and with how many rows at most.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    rows: int

    @classmethod
    def of(
        cls, signature: Signature, *, layout: Layout | None, declared: Sequence[Tensor]
    ) -> Self | None:
        """Along the first dynamic dimension that every input and output has once, and that the
        artifact's inputs leave open too; None where there is none.

        declared: the artifact's inputs. Whether rows are independent is for the comparison to
        show.
        """
        wide = signature.permuted(layout)
        open_ = {tensor.name: tensor.shape for tensor in declared}
        for dim in dynamic_dims(signature):
            every = (*wide.inputs, *wide.outputs)
            if signature.steps.get(dim, 1) == 1 and all(t.shape.count(dim) == 1 for t in every):
                places = {t.name: t.shape.index(dim) for t in wide.inputs}
                if not all(_is_open(open_.get(name, ()), axis) for name, axis in places.items()):
                    return None
                return cls(
                    inputs={t.name: t.shape.index(dim) for t in signature.inputs},
                    outputs={t.name: t.shape.index(dim) for t in wide.outputs},
                    rows=signature.dims[dim][1],
                )
        return None

    def parts(self, cases: Sequence[Case]) -> Iterator[list[Case]]:
        """The cases, of equal shapes, in runs of as many as there may be."""
        most = max(1, self.rows // self._size(cases[0])) if cases else 1
        for start in range(0, len(cases), most):
            yield list(cases[start : start + most])

    def stacked(self, cases: Sequence[Case]) -> Arrays:
        """The inputs of one run, in the source's layout."""
        return {
            name: np.concatenate([case.arrays[name] for case in cases], axis)
            for name, axis in self.inputs.items()
        }

    def split(self, found: Arrays, cases: Sequence[Case]) -> list[Arrays]:
        """What each case has of a run's outputs. Raises ValueError for other numbers of rows."""
        size = self._size(cases[0])
        apart: list[Arrays] = [{} for _ in cases]
        for name, array in found.items():
            axis = self.outputs.get(name, 0)
            if array.shape[axis : axis + 1] != (size * len(cases),):
                raise ValueError(f"output '{name}' has the shape {array.shape}")
            before = (slice(None),) * axis
            for place, own in enumerate(apart):
                own[name] = array[(*before, slice(place * size, (place + 1) * size))]
        return apart

    def _size(self, case: Case) -> int:
        name, axis = next(iter(self.inputs.items()))
        return int(case.arrays[name].shape[axis])
