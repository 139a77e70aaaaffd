"""Constants that grow with dynamic dimensions: how they are made, told from a few of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_numbers import Formula, Point, fitted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """`row`, `row + step`, `row + 2 * step` … along `axis`, `count` of them."""

    row: NDArray[Any]
    step: NDArray[Any]
    axis: int
    count: Formula

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """What has to be computed."""
        return (self.count,)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What the constant at the greatest sizes has from `starts` on, as far as `sizes`."""

    greatest: NDArray[Any]
    starts: tuple[Formula, ...]
    sizes: tuple[Formula, ...]

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """What has to be computed."""
        return (*self.starts, *self.sizes)


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """A block, which may grow itself, again and again: `counts` says how often along each axis."""

    block: NDArray[Any] | Counted | Cut
    counts: tuple[Formula, ...]

    @property
    def formulas(self) -> tuple[Formula, ...]:
        """What has to be computed."""
        inner = self.block.formulas if isinstance(self.block, Counted | Cut) else ()
        return (*self.counts, *inner)


Growth = Repeated | Counted | Cut


def told(values: Arrays, points: Sequence[Point], *, bounded: bool) -> Growth | None:
    """How a constant with these values at these points is made; None where that is not seen.

    bounded: whether the points have the greatest sizes there are. Only then is anything cut.
    """
    shapes = [array.shape for array in values]
    if len({len(shape) for shape in shapes}) > 1:
        return None
    sizes = [fitted(each, points) for each in zip(*shapes, strict=True)]
    known = tuple(size for size in sizes if size is not None)
    if len(known) < len(sizes):
        return None
    growing = [axis for axis, size in enumerate(known) if not size.is_constant]
    blocks = _repeated(values, points, known, growing)
    if blocks is not None:
        return blocks
    same = [axis for axis in growing if all(_has_equal_rows(array, axis) for array in values)]
    rows = [_first_rows(array, same) for array in values]
    rest = [axis for axis in growing if axis not in same]
    one = Formula(offset=1)
    left = [one if axis in same else size for axis, size in enumerate(known)]
    inner = _counted(rows, left, rest) or (_cut(rows, points, left, rest) if bounded else None)
    if inner is None or not same:
        return inner
    counts = tuple(size if axis in same else one for axis, size in enumerate(known))
    return Repeated(block=inner, counts=counts)


def _has_equal_rows(array: NDArray[Any], axis: int) -> bool:
    return bool((array == array.take([0], axis)).all())


def _first_rows(array: NDArray[Any], axes: Sequence[int]) -> NDArray[Any]:
    for axis in axes:
        array = array.take([0], axis)
    return array


def _repeated(
    values: Arrays, points: Sequence[Point], sizes: Sequence[Formula], growing: Sequence[int]
) -> Repeated | None:
    """By blocks of one row, or of as many as a dimension's formula asks for."""
    import numpy as np

    lengths = [sorted({1, _block_length(sizes[axis])}) for axis in growing]
    for chosen in itertools.product(*lengths):
        block = values[0]
        for axis, length in zip(growing, chosen, strict=True):
            block = block.take(range(length), axis)
        repeats = [
            [size // part for size, part in zip(array.shape, block.shape, strict=True)]
            for array in values
        ]
        if all(
            np.array_equal(np.tile(block, times), array)
            for times, array in zip(repeats, values, strict=True)
        ):
            counts = [fitted(each, points) for each in zip(*repeats, strict=True)]
            found = tuple(count for count in counts if count is not None)
            return Repeated(block=block, counts=found) if len(found) == len(counts) else None
    return None


def _block_length(size: Formula) -> int:
    """How many rows there are for each element of the one dimension that a size follows."""
    if size.offset == 0 and len(size.factors) == 1 and size.divisor == 1:
        return size.factors[0][1]
    return max(1, size.offset) if not size.factors and size.divisor == 1 else 1


def _counted(values: Arrays, sizes: Sequence[Formula], growing: Sequence[int]) -> Counted | None:
    import numpy as np

    if len(growing) != 1 or values[0].dtype.kind != "i":
        return None
    (axis,) = growing
    longest = max(values, key=lambda array: array.shape[axis])
    if longest.shape[axis] < 2:
        return None
    row = longest.take([0], axis)
    step = longest.take([1], axis) - row
    places = np.arange(longest.shape[axis], dtype=row.dtype)
    column = places.reshape([-1 if place == axis else 1 for place in range(row.ndim)])
    series = row + column * step
    if all(np.array_equal(series.take(range(array.shape[axis]), axis), array) for array in values):
        return Counted(row=row, step=step, axis=axis, count=sizes[axis])
    return None


def _cut(
    values: Arrays, points: Sequence[Point], sizes: Sequence[Formula], growing: Sequence[int]
) -> Cut | None:
    """From the start, the middle or the end of each growing axis."""
    most = tuple(max(sizes) for sizes in zip(*(array.shape for array in values), strict=True))
    greatest = next((array for array in values if array.shape == most), None)
    if greatest is None:
        return None
    for parts in itertools.product((0, 1, 2), repeat=len(growing)):
        starts = [[0] * greatest.ndim for _ in values]
        for start, array in zip(starts, values, strict=True):
            for axis, part in zip(growing, parts, strict=True):
                start[axis] = (greatest.shape[axis] - array.shape[axis]) * part // 2
        if all(_is_part(*each, greatest) for each in zip(values, starts, strict=True)):
            formulas = [fitted(each, points) for each in zip(*starts, strict=True)]
            found = tuple(formula for formula in formulas if formula is not None)
            if len(found) == len(formulas):
                return Cut(greatest=greatest, starts=found, sizes=tuple(sizes))
    return None


def _is_part(array: NDArray[Any], starts: Sequence[int], whole: NDArray[Any]) -> bool:
    import numpy as np

    places = tuple(
        slice(start, start + size) for start, size in zip(starts, array.shape, strict=True)
    )
    return bool(np.array_equal(whole[places], array, equal_nan=array.dtype.kind == "f"))
