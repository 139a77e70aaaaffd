"""Shapes, and tensors that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import (
    FREEZE,
    MAX_RANK,
    Node,
    Operand,
    Operator,
    Wide,
)
from crosscast.targets.families.onnx_mil.values import (
    axis_of,
    broadcast,
    cast,
    elements,
    is_fixed,
    kind,
    known,
    product,
    rank,
    reshaped,
    select,
    shape,
    size,
    sizes,
    vector,
)


def identity(node: Node) -> Operand:
    """The operand itself."""
    return node.mb.identity(x=node.x())


def dropout(node: Node) -> Operand:
    """The operand itself, as nothing is dropped after training."""
    node.ignore("seed", "ratio")
    if node.has(2) and np.any(node.constant(2, "training mode")):
        raise node.refused("in training mode")
    return node.mb.identity(x=node.x(0))


def reshape(node: Node) -> Operand:
    """Reshape; 0 keeps a size, unless it is allowed to mean 0."""
    found, wanted = node.operand(0), node.x(1)
    zero = bool(node.attribute("allowzero", 0))
    if isinstance(found, Wide):
        if not known(wanted) or 0 in wanted:
            raise node.too_wide(len(found.sizes))
        return _narrow(node, found.value, [int(one) for one in wanted])
    x = node.x(0)
    if not known(wanted):
        return node.mb.reshape(x=x, shape=wanted if zero else _kept(node, x, wanted))
    parts = [int(one) for one in wanted]
    if zero and 0 in parts:
        raise node.refused("a result without elements")
    kept: list[Any] = [size(node, x, axis) if one == 0 else one for axis, one in enumerate(parts)]
    return _narrow(node, x, kept)


def _kept(node: Node, x: Operand, wanted: Operand) -> Operand:
    """Computed sizes with those of x in the place of 0, which MIL takes by its own rules."""
    count, found = shape(wanted)[0], elements(wanted)
    if found is not None and 0 not in found:
        return wanted
    if not isinstance(count, int):
        raise node.refused("to a number of dimensions that is only known as the model runs")
    own = vector(node, [size(node, x, at) if at < rank(x) else 1 for at in range(count)])
    return select(node, node.mb.equal(x=wanted, y=np.int32(0)), own, wanted)


def _narrow(node: Node, x: Operand, parts: list[Any]) -> Operand:
    """Reshaped; put off where the result has too many dimensions."""
    if len(parts) <= MAX_RANK:
        return reshaped(node, x, parts)
    if is_fixed(shape(x)) and -1 in parts:
        rest = -int(np.prod(parts))
        parts[parts.index(-1)] = int(np.prod(shape(x))) // max(rest, 1)
    return Wide(value=x, sizes=tuple(parts))


def flatten(node: Node) -> Operand:
    """A matrix: the axes before `axis` are its rows."""
    x = node.x()
    axis = node.attribute("axis", 1)
    axis = axis + rank(x) if axis < 0 else axis
    rows = product(node, [size(node, x, at) for at in range(axis)])
    columns = [shape(x)[at] for at in range(axis, rank(x))]
    if isinstance(rows, int):
        return reshaped(node, x, [rows, -1])
    fixed = all(isinstance(one, int) for one in columns)
    return reshaped(node, x, [-1 if fixed else rows, int(np.prod(columns)) if fixed else -1])


def squeeze(node: Node) -> Operand:
    """Without the axes given, or without all of size 1."""
    x = node.x(0)
    if node.has(1):
        axes = [axis_of(node, axis, rank(x)) for axis in node.ints(1, "axes")]
    else:
        if not all(isinstance(one, int) for one in shape(x)):
            raise node.refused("without axes, of an input whose sizes are not all known", FREEZE)
        axes = [axis for axis, one in enumerate(shape(x)) if one == 1]
    return node.mb.squeeze(x=x, axes=axes) if axes else node.mb.identity(x=x)


def unsqueeze(node: Node) -> Operand:
    """With axes of size 1 at the places given in the result."""
    x, given = node.x(0), node.ints(1, "axes")
    if not given:
        return node.mb.identity(x=x)
    axes = sorted(axis_of(node, axis, rank(x) + len(given)) for axis in given)
    return node.mb.expand_dims(x=x, axes=axes)


def transpose(node: Node) -> Operand:
    """With its axes in another order, reversed by default."""
    found = node.operand(0)
    if isinstance(found, Wide):
        dims = len(found.sizes)
        return _transposed(node, found, node.attribute("perm", list(reversed(range(dims)))))
    x = node.x()
    order = node.attribute("perm", list(reversed(range(rank(x)))))
    return node.mb.transpose(x=x, perm=order) if order else node.mb.identity(x=x)


def _transposed(node: Node, wide: Wide, order: Sequence[int]) -> Operand:
    """Axes that stay next to each other are moved as one."""
    groups: list[list[int]] = []
    for axis in order:
        if groups and axis == groups[-1][-1] + 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if len(groups) > MAX_RANK:
        raise node.too_wide(len(wide.sizes))
    before = sorted(groups)
    flat = [_together(node, [wide.sizes[axis] for axis in group]) for group in before]
    made = node.mb.transpose(
        x=reshaped(node, wide.value, flat), perm=[before.index(group) for group in groups]
    )
    return Wide(value=made, sizes=tuple(wide.sizes[axis] for axis in order))


def _together(node: Node, sizes: Sequence[Any]) -> Any:
    return -1 if -1 in sizes else product(node, sizes)


def concat(node: Node) -> Operand:
    """Along one axis; operands without elements are passed over."""
    values = [one for one in node.every() if 0 not in shape(one)] or node.every()[:1]
    axis = axis_of(node, node.attribute("axis"), rank(values[0]))
    return (
        node.mb.identity(x=values[0])
        if len(values) == 1
        else node.mb.concat(values=values, axis=axis)
    )


def split(node: Node) -> tuple[Operand, ...]:
    """Into parts of given or of equal sizes; the last of them may be smaller."""
    x, count = node.x(0), len(node.outputs)
    axis = axis_of(node, node.attribute("axis", 0), rank(x))
    stated = node.attribute("num_outputs", count)
    if node.has(1):
        parts = node.ints(1, "sizes")
    else:
        whole = shape(x)[axis]
        if not isinstance(whole, int):
            raise node.refused("the size of its axis is only known as the model runs")
        each = -(-whole // stated)
        parts = [each] * (stated - 1) + [whole - each * (stated - 1)]
    if len(parts) == 1:
        return (node.mb.identity(x=x),)
    if 0 in parts:
        raise node.refused("a part without elements")
    if isinstance(shape(x)[axis], int):
        return tuple(node.mb.split(x=x, split_sizes=parts, axis=axis))
    ends = list(accumulate(parts))
    return tuple(
        _piece(node, x, axis, end - part, end) for part, end in zip(parts, ends, strict=True)
    )


def expand(node: Node) -> Operand:
    """Broadcast with a shape."""
    x = node.x(0)
    if not node.is_constant(1):
        wanted = node.x(1)
        if kind(x) == "bool":
            return node.mb.logical_and(x=x, y=node.mb.fill(shape=wanted, value=np.True_))
        zero = np.float32(0) if kind(x) == "fp32" else np.int32(0)
        return node.mb.add(x=x, y=node.mb.fill(shape=wanted, value=zero))
    parts = node.ints(1, "shape")
    if all(one == 1 for one in parts) and len(parts) <= rank(x):
        return node.mb.identity(x=x)
    return broadcast(node, x, parts)


def tile(node: Node) -> Operand:
    """Repeated along each axis."""
    x, reps = node.x(0), node.x(1)
    if known(reps) and np.all(reps == 1):
        return node.mb.identity(x=x)
    if known(reps) and np.any(reps == 0):
        raise node.refused("a result without elements")
    return node.mb.tile(x=x, reps=reps)


def shape_of(node: Node) -> Operand:
    """The sizes, or a part of them."""
    x = node.x()
    dims = rank(x)
    start, end = node.attribute("start", 0), node.attribute("end", dims)
    start, end = (min(max(one + dims if one < 0 else one, 0), dims) for one in (start, end))
    if start >= end:
        return np.empty(0, np.int64)
    fixed = shape(x)[start:end]
    if all(isinstance(one, int) for one in fixed):
        return np.array(fixed, np.int64)
    found = node.mb.shape(x=x)
    if (start, end) == (0, dims):
        return found
    return node.mb.slice_by_index(x=found, begin=[start], end=[end])


def size_of(node: Node) -> Operand:
    """The number of elements."""
    whole = product(node, sizes(node, node.x()))
    if isinstance(whole, int):
        return np.asarray(whole, np.int64)
    return node.mb.squeeze(x=whole, axes=[0])


def constant_of_shape(node: Node) -> Operand:
    """One number, as often as it takes."""
    value = node.mil(np.ravel(node.attribute("value", np.zeros(1, np.float32)))[0:1])
    return node.mb.fill(shape=node.x(0), value=value[0])


def number_range(node: Node) -> Operand:
    """From a start towards an end, in steps."""
    start, end, step = (_number(node, node.x(index)) for index in (0, 1, 2))
    return node.mb.range_1d(start=start, end=end, step=step)


def eye_like(node: Node) -> Operand:
    """1 on a diagonal of a matrix of another one's sizes."""
    x = node.x()
    rows, columns = shape(x)
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise node.refused("of an input whose sizes are not all known")
    found = node.attribute("dtype")
    from onnx import helper

    dtype = np.dtype(node.dtype()) if found is None else helper.tensor_dtype_to_np_dtype(found)
    return np.eye(rows, columns, k=node.attribute("k", 0), dtype=dtype)


def triangle(node: Node) -> Operand:
    """Trilu: what is above or below a diagonal, 0 elsewhere."""
    x = node.x(0)
    offset = node.ints(1, "diagonal")[0] if node.has(1) else 0
    rows, columns = shape(x)[-2:]
    upper = bool(node.attribute("upper", 1))
    if isinstance(rows, int) and isinstance(columns, int):
        kept: Any = np.tri(rows, columns, offset - 1 if upper else offset, dtype=bool)
    else:
        kept = _below(node, x, offset - 1 if upper else offset)
    zero = {"fp32": np.float32(0), "int32": np.int32(0), "bool": np.False_}[kind(x)]
    return select(node, kept, zero, x) if upper else select(node, kept, x, zero)


def depth_to_space(node: Node) -> Operand:
    """Channels to blocks, of which each is read by depth or by column."""
    x, block = node.x(), int(node.attribute("blocksize"))
    way = node.attribute("mode", "DCR")
    if way not in ("DCR", "CRD"):
        raise node.refused(f"attribute mode={way} is not supported")
    if way == "CRD" and kind(x) == "fp32":
        return node.mb.pixel_shuffle(x=x, upscale_factor=block)
    batch, channels, height, width = sizes(node, x)
    if not isinstance(channels, int):
        raise node.refused("the number of its channels is only known as the model runs")
    depth, area = channels // (block * block), product(node, [height, width])
    # In steps, since six dimensions at once are more than Core ML takes.
    if way == "CRD":
        x = reshaped(node, x, [batch, depth, block * block, area])
        x = node.mb.transpose(x=x, perm=[0, 2, 1, 3])
    tall, wide = product(node, [height, block]), product(node, [width, block])
    made = reshaped(node, x, [product(node, [batch, block]), block, depth, area])
    made = node.mb.transpose(x=made, perm=[0, 2, 3, 1])
    made = reshaped(node, made, [batch, block, depth, height, wide])
    made = node.mb.transpose(x=made, perm=[0, 2, 3, 1, 4])
    return reshaped(node, made, [batch, depth, tall, wide])


def space_to_depth(node: Node) -> Operand:
    """Blocks to channels, by depth."""
    block = int(node.attribute("blocksize"))
    x = node.x()
    if kind(x) == "fp32":
        return node.mb.space_to_depth(x=x, block_size=block)
    return cast(node, node.mb.space_to_depth(x=cast(node, x, "fp32"), block_size=block), kind(x))


def _below(node: Node, x: Operand, offset: int) -> Operand:
    """Where the column is not beyond the row plus an offset."""
    counts = []
    for axis in (-2, -1):
        count = size(node, x, rank(x) + axis)
        end = np.int32(count) if isinstance(count, int) else node.mb.squeeze(x=count, axes=[0])
        counts.append(node.mb.range_1d(start=np.int32(0), end=end, step=np.int32(1)))
    rows = node.mb.expand_dims(x=counts[0], axes=[1])
    columns = node.mb.expand_dims(x=counts[1], axes=[0])
    return node.mb.less_equal(x=columns, y=node.mb.add(x=rows, y=np.int32(offset)))


def _piece(node: Node, x: Operand, axis: int, begin: int, end: int) -> Operand:
    begins, ends = [0] * rank(x), [0] * rank(x)
    begins[axis], ends[axis] = begin, end
    mask = [at != axis for at in range(rank(x))]
    return node.mb.slice_by_index(x=x, begin=begins, end=ends, begin_mask=mask, end_mask=mask)


def _number(node: Node, value: Operand) -> Operand:
    if known(value):
        return value.reshape(-1)[0]
    return node.mb.squeeze(x=value) if rank(value) else value


TABLE: Mapping[str, Operator] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "Identity": identity,
    "Range": number_range,
    "Reshape": reshape,
    "Shape": shape_of,
    "Size": size_of,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": triangle,
    "Unsqueeze": unsqueeze,
}
