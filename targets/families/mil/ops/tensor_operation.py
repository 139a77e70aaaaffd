"""Making, sorting, padding and joining tensors."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from typing import Any

import torch
from torch.nn import functional

from crosscast.targets.families.mil.ops.arguments import (
    Ints,
    Invalid,
    Op,
    Since,
    Tensor,
    Tensors,
    unknown,
)


def argsort(*, x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Equal elements stay in their order."""
    return x.argsort(dim=axis, descending=not ascending, stable=True)


def band_part(*, x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """What lies outside the band is zero, whatever it was (infinities, too)."""
    rows = torch.arange(x.shape[-2]).unsqueeze(-1)
    columns = torch.arange(x.shape[-1])
    kept = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        kept &= rows - columns <= lower
    if upper >= 0:
        kept &= columns - rows <= upper
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


def concat(*, values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    if values[0].dim() == 0:
        return torch.stack(values)  # scalars make a vector
    if not interleave:
        return torch.cat(values, axis)
    place = axis % values[0].dim()
    return torch.stack(values, place + 1).flatten(place, place + 1)


def cumsum(*, x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    given = x.flip(axis) if reverse else x
    made = given.cumsum(axis)
    made = made - given if exclusive and not x.is_floating_point() else made
    if exclusive and x.is_floating_point():
        zeros = torch.zeros_like(given.narrow(axis, 0, 1))
        made = torch.cat([zeros, made.narrow(axis, 0, made.shape[axis] - 1)], axis)
    return made.flip(axis) if reverse else made


def fill(*, shape: Ints, value: Tensor | None = None) -> Tensor:
    return (torch.zeros(()) if value is None else value).reshape(()).expand(shape).clone()


def fill_like(*, ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return fill(shape=list(ref_tensor.shape), value=value)


def flatten2d(*, x: Tensor, axis: int = 1) -> Tensor:
    place = axis + x.dim() if axis < 0 else axis
    return x.reshape(prod(x.shape[:place]), -1)


def identity(*, x: Tensor) -> Tensor:
    return x


def non_zero(*, x: Tensor) -> Tensor:
    return x.nonzero()


def one_hot(
    *,
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """An index outside the vector gives one of off-values; negative ones count as outside."""
    places = torch.arange(one_hot_vector_size)
    rank = indices.dim() + 1
    place = axis % rank
    along = [-1 if at == place else 1 for at in range(rank)]
    hot = indices.unsqueeze(place) == places.reshape(along)
    on = torch.ones((), dtype=torch.int32) if on_value is None else on_value
    off = torch.zeros((), dtype=torch.int32) if off_value is None else off_value
    return torch.where(hot, on, off)


def pad(
    *, x: Tensor, pad: Ints, mode: str = "constant", constant_val: Tensor | None = None
) -> Tensor:
    """pad: before and after each of the last axes."""
    pads = list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        value = 0 if constant_val is None else constant_val.item()
        return functional.pad(x, [size for pair in reversed(pads) for size in pair], value=value)
    for axis, (before, after) in enumerate(pads, x.dim() - len(pads)):
        places = torch.arange(-before, x.shape[axis] + after)
        x = x.index_select(axis, _inside(places, x.shape[axis], mode))
    return x


def _inside(places: Tensor, size: int, mode: str) -> Tensor:
    """The elements that stand for those beyond the ends."""
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if mode == "reflect":
        return (size - 1 - (size - 1 - places.abs()).abs()).clamp(0, size - 1)
    raise unknown("pad", "mode", mode)


def range_1d(*, start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    first, last, by = (value.item() for value in (start, end, step))
    count = max(ceil((last - first) / by), 0)
    return first + by * torch.arange(count, dtype=torch.promote_types(start.dtype, step.dtype))


def shape(*, x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def split(
    *, x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None
) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return tuple(x.split(split_sizes, axis))
    if num_splits is None or x.shape[axis] % num_splits:
        raise Invalid(f"an axis of {x.shape[axis]} cannot be split into {num_splits} equal parts")
    return tuple(x.chunk(num_splits, axis))


def stack(*, values: Tensors, axis: int) -> Tensor:
    return torch.stack(values, axis)


def tile(*, x: Tensor, reps: Ints) -> Tensor:
    return x.repeat(reps)


def topk(
    *,
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Any:
    """Sorted; of equal elements the first ones. k = -1 takes all."""
    if output_indices_dtype not in ("int32", "uint16"):
        raise unknown("topk", "output_indices_dtype", output_indices_dtype)
    order = x.argsort(dim=axis, descending=not ascending, stable=True)
    order = order.narrow(axis, 0, x.shape[axis] if k == -1 else k)
    values = x.gather(axis, order)
    return (values, order) if return_indices else values


def select(*, cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)


OPS: Mapping[str, Op | Since] = {
    function.__name__: function
    for function in (
        argsort, band_part, concat, cumsum, fill, fill_like, flatten2d, identity, non_zero,
        one_hot, pad, range_1d, shape, split, stack, tile, topk, select,
    )
}  # fmt: skip
