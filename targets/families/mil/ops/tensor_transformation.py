"""Shapes, slices and blocks: operators that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from math import prod

import torch
from torch.nn import functional

from crosscast.targets.families.mil.ops.arguments import (
    Bools,
    Ints,
    Invalid,
    Op,
    Since,
    Tensor,
    Tensors,
)


def depth_to_space(*, x: Tensor, block_size: int) -> Tensor:
    """Channels are (block, block, channel)."""
    n, c, h, w = x.shape
    made = x.reshape(n, block_size, block_size, c // block_size**2, h, w)
    return made.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * block_size, w * block_size)


def space_to_depth(*, x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    made = x.reshape(n, c, h // block_size, block_size, w // block_size, block_size)
    return made.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // block_size, w // block_size)


def pixel_shuffle(*, x: Tensor, upscale_factor: int) -> Tensor:
    """Channels are (channel, block, block)."""
    return functional.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(*, x: Tensor, downscale_factor: int) -> Tensor:
    return functional.pixel_unshuffle(x, downscale_factor)


def space_to_batch(*, x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    top, bottom, left, right = paddings
    given = functional.pad(x, (left, right, top, bottom))
    n, c, h, w = given.shape
    rows, columns = block_shape
    made = given.reshape(n, c, h // rows, rows, w // columns, columns)
    return made.permute(3, 5, 0, 1, 2, 4).reshape(-1, c, h // rows, w // columns)


def batch_to_space(*, x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    rows, columns = block_shape
    top, bottom, left, right = crops
    n, c, h, w = x.shape
    made = x.reshape(rows, columns, -1, c, h, w).permute(2, 3, 4, 0, 5, 1)
    made = made.reshape(n // (rows * columns), c, h * rows, w * columns)
    return made[:, :, top : h * rows - bottom, left : w * columns - right]


def expand_dims(*, x: Tensor, axes: Ints) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(*, x: Tensor, axes: Ints | None = None) -> Tensor:
    """Axes of another size than one stay."""
    return x.squeeze() if axes is None else x.squeeze(axes)


def reshape(*, x: Tensor, shape: Ints) -> Tensor:
    """0 takes the size of the same axis, -1 what is left."""
    wanted = [size if size or not x.numel() else _size(x, axis) for axis, size in enumerate(shape)]
    return _reshaped(x, wanted)


def reshape_17(*, x: Tensor, shape: Ints) -> Tensor:
    """IOS 17: 0 takes the size of the axis that is as far from the last one, or 1."""
    wanted = list(shape)
    for back in range(1, len(shape) + 1):
        if wanted[-back] == 0 and x.numel():
            wanted[-back] = x.shape[-back] if back <= x.dim() else 1
    return _reshaped(x, wanted)


def _size(x: Tensor, axis: int) -> int:
    if axis >= x.dim():
        raise Invalid(f"reshape of {tuple(x.shape)} has a 0 for axis {axis}")
    return int(x.shape[axis])


def _reshaped(x: Tensor, shape: Ints) -> Tensor:
    known = prod(size for size in shape if size >= 0)
    if (
        shape.count(-1) > 1
        or min(shape, default=0) < -1
        or (-1 not in shape) * x.numel() != ((-1 not in shape) * known)
    ):
        raise Invalid(f"{tuple(x.shape)} cannot be reshaped to {tuple(shape)}")
    return x.reshape(shape)


def reshape_like(
    *, x: Tensor, ref_tensors: Tensors, begins: Ints, ends: Ints, end_masks: Bools
) -> Tensor:
    parts = (
        tensor.shape[begin:] if masked else tensor.shape[begin:end]
        for tensor, begin, end, masked in zip(ref_tensors, begins, ends, end_masks, strict=True)
    )
    return x.reshape(list(chain.from_iterable(parts)))


def reverse(*, x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(list(range(x.dim())) if axes is None else axes)


def reverse_sequence(*, x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """The first `lengths[i]` elements of each batch element are reversed."""
    given = x.movedim((batch_axis, seq_axis), (0, 1))
    rows = [
        torch.cat([row[:length].flip(0), row[length:]])
        for row, length in zip(given, lengths, strict=True)
    ]
    return torch.stack(rows).movedim((0, 1), (batch_axis, seq_axis))


def slice_by_index(
    *,
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """As Python slices; negative strides as well."""
    places, dropped = _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, chosen in enumerate(places):
        x = _taken(x, axis, chosen)
    return x.squeeze(dropped) if dropped else x


def slice_update(
    *,
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """A copy of `x` whose slice is `update`."""
    places, _ = _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    grids = torch.meshgrid(*[torch.tensor(list(chosen)) for chosen in places], indexing="ij")
    made = x.clone()
    made[tuple(grids)] = update.reshape([len(chosen) for chosen in places])
    return made


def _places(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> tuple[list[range], Ints]:
    """The elements of each axis that a slice takes, and the axes that it drops."""
    rank = x.dim()
    steps, none = stride or [1] * rank, [False] * rank
    open_begin, open_end = begin_mask or none, end_mask or none
    single = squeeze_mask or none
    places = []
    for axis, size in enumerate(x.shape):
        if single[axis]:
            first = begin[axis] + size * (begin[axis] < 0)
            if not 0 <= first < size:
                raise Invalid(f"slice at {begin[axis]} of an axis of {size}")
            places.append(range(first, first + 1))
        else:
            low = None if open_begin[axis] else begin[axis]
            high = None if open_end[axis] else end[axis]
            places.append(range(*slice(low, high, steps[axis]).indices(size)))
    return places, [axis for axis in range(rank) if single[axis]]


def _taken(x: Tensor, axis: int, chosen: range) -> Tensor:
    if len(chosen) and chosen.step > 0:
        return x[(slice(None),) * axis + (slice(chosen.start, chosen.stop, chosen.step),)]
    return x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))


def slice_by_size(*, x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """-1 takes the rest of an axis."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        first += x.shape[axis] * (first < 0)
        taken = x.shape[axis] - first if count == -1 else count
        if not 0 <= first <= first + taken <= x.shape[axis]:
            raise Invalid(f"slice at {first} of {taken} elements of an axis of {x.shape[axis]}")
        x = x.narrow(axis, first, taken)
    return x


def sliding_windows(*, x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    place = axis % x.dim()
    return x.unfold(place, size, stride).movedim(-1, place + 1)


def transpose(*, x: Tensor, perm: Ints) -> Tensor:
    return x.permute(perm)


OPS: Mapping[str, Op | Since] = {
    **{
        function.__name__: function
        for function in (
            depth_to_space, space_to_depth, pixel_shuffle, pixel_unshuffle, space_to_batch,
            batch_to_space, expand_dims, squeeze, reshape_like, reverse, reverse_sequence,
            slice_by_index, slice_update, slice_by_size, sliding_windows, transpose,
        )
    },
    "reshape": {15: reshape, 17: reshape_17},
}  # fmt: skip
