"""Gathering and scattering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import FREEZE, Node, Operand, Operator
from crosscast.targets.families.onnx_mil.ops.arithmetic import wrapped
from crosscast.targets.families.onnx_mil.values import (
    axis_of,
    cast,
    is_fixed,
    kind,
    known,
    rank,
    select,
    shape,
    size,
    vector,
)

POSITIVE = 17
"""The iOS from which on an index from the end is out of bounds."""

MODES = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def counted(node: Node, indices: Operand, count: Any) -> Operand:
    """Indices from the end as those from the start.

    count: elements of the dimension: an int or a variable of shape (1,).
    """
    if known(indices):
        if np.all(indices >= 0):
            return indices
        if isinstance(count, int):
            return np.where(indices < 0, indices + count, indices).astype(np.int32)[()]
    if node.system < POSITIVE:
        return indices
    if known(indices):
        indices = node.mb.const(val=indices)
    whole = np.int32(count) if isinstance(count, int) else node.mb.squeeze(x=count, axes=[0])
    below = node.mb.less(x=indices, y=np.int32(0))
    return select(node, below, node.mb.add(x=indices, y=whole), indices)


def through_numbers(node: Node, x: Operand, gathered: Callable[[Operand], Operand]) -> Operand:
    """What `gathered` makes of x; of booleans as integers, since MIL gathers none."""
    if kind(x) != "bool":
        return gathered(x)
    numbers = x.astype(np.int32) if known(x) else cast(node, x, "int32")
    return cast(node, gathered(numbers), "bool")


def gather(node: Node) -> Operand:
    """Slices along one axis."""
    x, axis = node.x(0), axis_of(node, node.attribute("axis", 0), rank(node.x(0)))
    indices = counted(node, node.x(1), size(node, x, axis))
    return through_numbers(node, x, lambda y: node.mb.gather(x=y, indices=indices, axis=axis))


def gather_elements(node: Node) -> Operand:
    """Elements along one axis; other dimensions may be cut."""
    x, axis = node.x(0), axis_of(node, node.attribute("axis", 0), rank(node.x(0)))
    indices = counted(node, node.x(1), size(node, x, axis))
    x = _cut(node, x, indices, axis)
    return through_numbers(
        node, x, lambda y: node.mb.gather_along_axis(x=y, indices=indices, axis=axis)
    )


def gather_nd(node: Node) -> Operand:
    """Slices at points, batch by batch."""
    batch = node.attribute("batch_dims", 0)
    if batch and node.system < 16:
        raise node.refused(
            f"attribute batch_dims={batch} is not supported before iOS 16", "set minimum: iOS16"
        )
    given = {"batch_dims": batch} if batch else {}
    x, indices = node.x(0), _points(node, node.x(0), node.x(1), batch)
    return through_numbers(node, x, lambda y: node.mb.gather_nd(x=y, indices=indices, **given))


def scatter_elements(node: Node) -> Operand:
    """Elements along one axis replaced, or updated."""
    x, updates = node.x(0), node.x(2)
    axis = axis_of(node, node.attribute("axis", 0), rank(x))
    mode = _mode(node)
    indices = counted(node, node.x(1), size(node, x, axis))
    others = [at for at in range(rank(x)) if at != axis]
    if all(shape(x)[at] == shape(indices)[at] for at in others):
        return _through(
            node, x, updates,
            lambda y, z: node.mb.scatter_along_axis(
                data=y, indices=indices, updates=z, axis=axis, mode=mode
            ),
        )  # fmt: skip
    points = _grid(node, indices, axis)
    return _through(
        node, x, updates,
        lambda y, z: node.mb.scatter_nd(data=y, indices=points, updates=z, mode=mode),
    )  # fmt: skip


def scatter_nd(node: Node) -> Operand:
    """Slices at points replaced, or updated."""
    x, mode = node.x(0), _mode(node)
    points = _points(node, x, node.x(1), 0)
    return _through(
        node, x, node.x(2),
        lambda y, z: node.mb.scatter_nd(data=y, indices=points, updates=z, mode=mode),
    )  # fmt: skip


def one_hot(node: Node) -> Operand:
    """One value at the index, another elsewhere; indices from the end count too."""
    indices, depth = node.x(0), node.ints(1, "depth")[0]
    off, on = node.mil(node.constant(2, "values"))
    dims = rank(indices) + 1
    axis = axis_of(node, node.attribute("axis", -1), dims)
    if kind(indices) != "int32":
        indices = cast(node, indices, "int32")
    wide = node.mb.expand_dims(x=indices, axes=[axis])
    whole = node.mb.add(x=wide, y=np.int32(depth))
    wide = select(node, node.mb.less(x=wide, y=np.int32(0)), whole, wide)
    places = np.arange(depth, dtype=np.int32).reshape([-1] + [1] * (dims - 1 - axis))
    hot = node.mb.equal(x=wide, y=places)
    if (on, off) == (1, 0):
        return cast(node, hot, kind(on))
    return node.mb.select(cond=hot, a=np.full(_ones(dims), on), b=_of_shape(node, hot, off))


def compress(node: Node) -> Operand:
    """The slices where a condition holds, which has to be known."""
    chosen = np.flatnonzero(node.constant(1, "condition")).astype(np.int32)
    x, axis = node.x(0), node.attribute("axis")
    if axis is None:
        x, axis = node.mb.reshape(x=x, shape=[-1]), 0
    axis = axis_of(node, axis, rank(x))
    return through_numbers(node, x, lambda y: node.mb.gather(x=y, indices=chosen, axis=axis))


def non_zero(node: Node) -> Operand:
    """The indices of what is not 0, an axis a row."""
    return node.mb.transpose(x=node.mb.non_zero(x=node.x()), perm=[1, 0])


def reverse_sequence(node: Node) -> Operand:
    """The first elements of each sequence, in reverse."""
    return node.mb.reverse_sequence(
        x=node.x(0),
        lengths=node.x(1),
        seq_axis=node.attribute("time_axis", 0),
        batch_axis=node.attribute("batch_axis", 1),
    )


def feature_extractor(node: Node) -> Operand:
    """ArrayFeatureExtractor: columns."""
    x, indices = node.x(0), node.mb.reshape(x=node.x(1), shape=[-1])
    made = node.mb.gather(x=x, indices=indices, axis=rank(x) - 1)
    return node.mb.expand_dims(x=made, axes=[0]) if rank(x) == 1 else made


def _mode(node: Node) -> str:
    way = node.attribute("reduction", "none")
    if way not in MODES:
        raise node.refused(f"attribute reduction={way} is not supported")
    return MODES[way]


def _through(
    node: Node, x: Operand, updates: Operand, scattered: Callable[[Operand, Operand], Operand]
) -> Operand:
    if kind(x) != "bool":
        return wrapped(node, scattered(x, updates), node.dtype())
    numbers, new = (
        one.astype(np.int32) if known(one) else cast(node, one, "int32") for one in (x, updates)
    )
    return cast(node, scattered(numbers, new), "bool")


def _points(node: Node, x: Operand, indices: Operand, batch: int) -> Operand:
    """Points with every index counted from the start."""
    depth = shape(indices)[-1]
    if known(indices) and np.all(indices >= 0):
        return indices
    extents = shape(x)[batch : batch + depth] if isinstance(depth, int) else ()
    if known(indices) and is_fixed(extents):
        return np.where(indices < 0, indices + np.array(extents), indices).astype(np.int32)
    if node.system < POSITIVE:
        return indices
    if not isinstance(depth, int):
        raise node.refused("points of a number of dimensions that is not known", FREEZE)
    if known(indices):
        indices = node.mb.const(val=indices)
    limits = vector(node, [size(node, x, batch + axis) for axis in range(depth)])
    whole = node.mb.add(x=indices, y=limits)
    return select(node, node.mb.less(x=indices, y=np.int32(0)), whole, indices)


def _grid(node: Node, indices: Operand, axis: int) -> Operand:
    """The full point of each element of `indices`."""
    extents = shape(indices)
    if not is_fixed(extents):
        raise node.refused("of fewer elements than its data has, a number that is not known")
    if known(indices):
        indices = node.mb.const(val=indices)
    places = np.indices(extents, dtype=np.int32)
    parts = [
        node.mb.expand_dims(x=indices, axes=[-1]) if at == axis else places[at][..., None]
        for at in range(len(extents))
    ]
    return parts[0] if len(parts) == 1 else node.mb.concat(values=parts, axis=len(extents))


def _cut(node: Node, x: Operand, indices: Operand, axis: int) -> Operand:
    """X with its other dimensions as large as those of the indices."""
    wanted = shape(indices)
    cut = [at for at in range(rank(x)) if at != axis and shape(x)[at] != wanted[at]]
    if not cut:
        return x
    ends = [size(node, indices, at) if at in cut else 0 for at in range(rank(x))]
    return node.mb.slice_by_index(
        x=x,
        begin=[0] * len(ends),
        end=vector(node, ends),
        end_mask=[at not in cut for at in range(rank(x))],
    )


def _ones(dims: int) -> tuple[int, ...]:
    return (1,) * dims


def _of_shape(node: Node, like: Operand, value: Any) -> Operand:
    if is_fixed(shape(like)):
        return np.full(shape(like), value)
    return node.mb.fill(shape=node.mb.shape(x=like), value=value)


TABLE: Mapping[str, Operator] = {
    "Compress": compress,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "ai.onnx.ml.ArrayFeatureExtractor": feature_extractor,
}
