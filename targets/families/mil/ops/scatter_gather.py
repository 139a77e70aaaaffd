"""Gathering elements by index, and scattering them.

Up to iOS 16 negative indices count from the end; from iOS 17 on they are as undefined as those
beyond it. An undefined index is an error here, whether or not the program asks for the check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from crosscast.targets.families.mil.ops.arguments import Invalid, Op, Since, Tensor, unknown


def _inside(indices: Tensor, size: int, *, wrap: bool) -> Tensor:
    """Indices from the beginning of an axis."""
    wide = indices.to(torch.int64)
    found = torch.where(wide < 0, wide + size, wide) if wrap else wide
    outside = wide[(found < 0) | (found >= size)]
    if outside.numel():
        raise Invalid(f"index {int(outside[0])} is outside an axis of {size}")
    return found


def gather(*, x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0) -> Tensor:
    return _gather(x, indices, axis, batch_dims, wrap=True)


def gather_17(
    *,
    x: Tensor,
    indices: Tensor,
    axis: int = 0,
    batch_dims: int = 0,
) -> Tensor:
    return _gather(x, indices, axis, batch_dims, wrap=False)


def _gather(x: Tensor, indices: Tensor, axis: int, batch_dims: int, *, wrap: bool) -> Tensor:
    axis, batch_dims = axis % x.dim(), batch_dims % (indices.dim() or 1) if batch_dims else 0
    places = _inside(indices, x.shape[axis], wrap=wrap)
    if not batch_dims:
        made = x.index_select(axis, places.reshape(-1))
        return made.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))
    rows = [
        _gather(row, own, axis - 1, batch_dims - 1, wrap=wrap)
        for row, own in zip(x, places, strict=True)
    ]
    return torch.stack(rows)


def gather_along_axis(*, x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return x.gather(axis, _inside(indices, x.shape[axis], wrap=True))


def gather_along_axis_17(*, x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    return x.gather(axis, _inside(indices, x.shape[axis], wrap=False))


def gather_nd(*, x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    return _gather_nd(x, indices, batch_dims, wrap=True)


def gather_nd_17(*, x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    return _gather_nd(x, indices, batch_dims, wrap=False)


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int, *, wrap: bool) -> Tensor:
    if batch_dims:
        rows = [
            _gather_nd(row, own, batch_dims - 1, wrap=wrap)
            for row, own in zip(x, indices, strict=True)
        ]
        return torch.stack(rows)
    return x[tuple(_columns(indices, x, wrap=wrap))]


def _columns(indices: Tensor, x: Tensor, *, wrap: bool) -> list[Tensor]:
    """The indices of each of the first axes."""
    return [
        _inside(indices[..., axis], x.shape[axis], wrap=wrap) for axis in range(indices.shape[-1])
    ]


def scatter(
    *, data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add"
) -> Tensor:
    return _scatter(data, indices, updates, axis, mode, wrap=True)


def scatter_17(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
) -> Tensor:
    return _scatter(data, indices, updates, axis, mode, wrap=False)


def _scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, *, wrap: bool
) -> Tensor:
    """updates: of the shape of `data` with that of the indices in the place of the axis."""
    axis %= data.dim()
    places = _inside(indices, data.shape[axis], wrap=wrap)
    given = updates.reshape(*data.shape[:axis], -1, *data.shape[axis + 1 :])
    return _combined(data, (*[slice(None)] * axis, places.reshape(-1)), given, mode)


def scatter_along_axis(
    *, data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add"
) -> Tensor:
    return _scatter_along(data, indices, updates, axis, mode, wrap=True)


def scatter_along_axis_17(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
) -> Tensor:
    return _scatter_along(data, indices, updates, axis, mode, wrap=False)


def _scatter_along(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, *, wrap: bool
) -> Tensor:
    axis %= data.dim()
    grids = torch.meshgrid(*[torch.arange(size) for size in indices.shape], indexing="ij")
    places = _inside(indices, data.shape[axis], wrap=wrap)
    return _combined(data, (*grids[:axis], places, *grids[axis + 1 :]), updates, mode)


def scatter_nd(*, data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add") -> Tensor:
    return _combined(data, tuple(_columns(indices, data, wrap=True)), updates, mode)


def scatter_nd_17(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
) -> Tensor:
    return _combined(data, tuple(_columns(indices, data, wrap=False)), updates, mode)


def _combined(data: Tensor, places: tuple[Any, ...], updates: Tensor, mode: str) -> Tensor:
    """`data` with the updates at their places, one after the other where places repeat."""
    import numpy as np

    combine = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide if data.is_floating_point() else np.floor_divide,
        "max": np.maximum,
        "min": np.minimum,
    }
    made = data.numpy().copy()
    chosen: Any = tuple(place if isinstance(place, slice) else place.numpy() for place in places)
    if mode == "update":
        made[chosen] = updates.numpy()
    elif mode in combine:
        combine[mode].at(made, chosen, updates.to(data.dtype).numpy())
    else:
        raise unknown("scatter", "mode", mode)
    return torch.from_numpy(made)


OPS: Mapping[str, Op | Since] = {
    "gather": {15: gather, 17: gather_17},
    "gather_along_axis": {15: gather_along_axis, 17: gather_along_axis_17},
    "gather_nd": {15: gather_nd, 17: gather_nd_17},
    "scatter": {15: scatter, 17: scatter_17},
    "scatter_along_axis": {15: scatter_along_axis, 17: scatter_along_axis_17},
    "scatter_nd": {15: scatter_nd, 17: scatter_nd_17},
}
