"""Slices and padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import INT32, Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import (
    axis_of,
    cast,
    filled,
    kind,
    rank,
    shape,
    sizes,
    vector,
)

NATIVE = {"reflect": "reflect", "edge": "replicate"}
"""MIL's names of the modes that it has, for the last two dimensions."""


def slices(node: Node) -> Operand:
    """Slice along any axes, backwards too."""
    x = node.x(0)
    count = shape(node.operand(1))[0]
    if not isinstance(count, int):
        raise node.refused("along a number of axes that is only known as the model runs")
    axes = node.ints(3, "axes") if node.has(3) else list(range(count))
    axes = [axis_of(node, axis, rank(x)) for axis in axes]
    steps = node.ints(4, "steps") if node.has(4) else [1] * count
    starts, ends = (_bounds(node, index, count) for index in (1, 2))
    back = [at for at, step in enumerate(steps) if step < 0]
    if back:
        x = node.mb.reverse(x=x, axes=[axes[at] for at in back])
    for at in back:
        starts[at], ends[at] = (
            _mirrored(node, bound, shape(x)[axes[at]]) for bound in (starts[at], ends[at])
        )
    parts = {
        axis: (start, end, abs(step))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    return _sliced(node, x, parts)


def pad(node: Node) -> Operand:
    """With a constant, the edge, a reflection, or from the other side."""
    x, mode = node.x(0), node.attribute("mode", "constant")
    axes = node.ints(3, "axes") if node.has(3) else list(range(rank(x)))
    axes = [axis_of(node, axis, rank(x)) for axis in axes]
    if not node.is_constant(1):
        return _computed(node, x, mode, axes)
    given = node.ints(1, "padding")
    pairs = [(0, 0)] * rank(x)
    for at, axis in enumerate(axes):
        pairs[axis] = (given[at], given[len(axes) + at])
    x = _cropped(node, x, pairs)
    pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if not any(map(any, pairs)):
        return node.mb.identity(x=x)
    if mode == "constant":
        return _with_constant(node, x, pairs, _filling(node, x))
    if mode not in ("edge", "reflect", "wrap"):
        raise node.refused(f"attribute mode={mode} is not supported")
    return _with_itself(node, x, pairs, mode)


def center_crop_pad(node: Node) -> Operand:
    """Cut or filled with 0 on both sides to given sizes."""
    x = node.x(0)
    wanted = node.ints(1, "sizes")
    axes = [axis_of(node, one, rank(x)) for one in node.attribute("axes", list(range(rank(x))))]
    pairs, parts = [(0, 0)] * rank(x), {}
    for axis, target in zip(axes, wanted, strict=True):
        found = shape(x)[axis]
        if not isinstance(found, int):
            raise node.refused("of a size that is only known as the model runs")
        if found > target:
            start = (found - target) // 2
            parts[axis] = (start, start + target, 1)
        elif found < target:
            before = (target - found) // 2
            pairs[axis] = (before, target - found - before)
    made = _sliced(node, x, parts) if parts else x
    zero = np.float32(0) if kind(x) == "fp32" else np.int32(0)
    made = _with_constant(node, made, pairs, zero) if any(map(any, pairs)) else made
    return node.mb.identity(x=made) if made is x else made


def sources(size: int, before: int, after: int, mode: str) -> Any:
    """Which element of a dimension each element of the padded one is."""
    return np.pad(np.arange(size, dtype=np.int32), (before, after), mode=mode)  # type: ignore[call-overload]


def _bounds(node: Node, index: int, count: int) -> list[Any]:
    """Where slices start or end: ints, or variables of shape (1,)."""
    if node.is_constant(index):
        return list(node.ints(index, "bounds"))
    vector = node.x(index)
    if count == 1:
        return [vector]
    return list(node.mb.split(x=vector, num_splits=count, axis=0))


def _mirrored(node: Node, bound: Any, size: Any) -> Any:
    """A bound of a backward slice, counted from the other end."""
    if not isinstance(bound, int):
        raise node.refused("backwards between bounds that are computed by the model")
    if bound < 0:
        return min(-bound - 1, INT32.max)
    if not isinstance(size, int):
        if bound >= INT32.max:
            return 0
        return -bound - 1
    return max(size - 1 - bound, 0)


def _sliced(node: Node, x: Operand, parts: Mapping[int, tuple[Any, Any, int]]) -> Operand:
    """A forward slice of some axes. Bounds beyond the size mean the end."""
    dims = rank(x)
    begin: list[Any] = [0] * dims
    end: list[Any] = [0] * dims
    stride = [1] * dims
    open_begin, open_end = [True] * dims, [True] * dims
    for axis, (start, stop, step) in parts.items():
        size = shape(x)[axis]
        begin[axis], open_begin[axis] = _settled(start, size, 0)
        end[axis], open_end[axis] = _settled(stop, size, None)
        stride[axis] = step
    arguments = {}
    if any(one > 1 for one in stride):
        arguments["stride"] = stride
    return node.mb.slice_by_index(
        x=x,
        begin=vector(node, begin),
        end=vector(node, end),
        begin_mask=open_begin,
        end_mask=open_end,
        **arguments,
    )


def _settled(bound: Any, size: Any, first: int | None) -> tuple[Any, bool]:
    """A bound as MIL takes it, and whether it is the first (0) or the last (None) there is."""
    if not isinstance(bound, int):
        return bound, False
    if isinstance(size, int):
        bound = min(max(bound + size if bound < 0 else bound, 0), size)
        return bound, bound == (size if first is None else 0)
    if bound <= -INT32.max or bound >= INT32.max:
        is_open = (bound < 0) == (first == 0)
        return (0, True) if is_open else (min(max(bound, INT32.min), INT32.max), False)
    return bound, first == 0 and bound == 0


def _cropped(node: Node, x: Operand, pairs: Sequence[tuple[int, int]]) -> Operand:
    """Negative padding cuts off."""
    parts: dict[int, tuple[Any, Any, int]] = {}
    for axis, (before, after) in enumerate(pairs):
        if min(before, after) < 0:
            stop = min(after, 0) or INT32.max
            parts[axis] = (max(-before, 0), int(stop), 1)
    return _sliced(node, x, parts) if parts else x


def _filling(node: Node, x: Operand) -> Any:
    if node.has(2):
        return node.mil(np.ravel(node.constant(2, "value")))[0]
    return {"fp32": np.float32(0), "int32": np.int32(0), "bool": np.False_}[kind(x)]


def _with_constant(node: Node, x: Operand, pairs: Sequence[tuple[int, int]], value: Any) -> Operand:
    if kind(x) == "fp32":
        flat = [size for pair in pairs for size in pair]
        return node.mb.pad(x=x, pad=flat, mode="constant", constant_val=value)
    for axis, (before, after) in enumerate(pairs):
        whole = sizes(node, x)
        blocks = [
            filled(node, [*whole[:axis], count, *whole[axis + 1 :]], value) if count else None
            for count in (before, after)
        ]
        values = [one for one in (blocks[0], x, blocks[1]) if one is not None]
        x = node.mb.concat(values=values, axis=axis) if len(values) > 1 else x
    return x


def _with_itself(node: Node, x: Operand, pairs: Sequence[tuple[int, int]], mode: str) -> Operand:
    """From the tensor itself: by MIL's padding where it has the mode, else element by element."""
    last = pairs[-2:]
    near = all(
        not isinstance(size, int) or max(pair) < size
        for pair, size in zip(last, shape(x)[-2:], strict=False)
    )
    if mode in NATIVE and kind(x) == "fp32" and near and any(map(any, last)):
        x = _native(node, x, last, NATIVE[mode])
        pairs = [*pairs[:-2], *((0, 0) for _ in last)]
    dtype = kind(x)
    x = cast(node, x, "int32") if dtype == "bool" else x
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            size = shape(x)[axis]
            if not isinstance(size, int):
                raise node.refused(f"attribute mode={mode} of a size that is not known")
            x = node.mb.gather(x=x, indices=sources(size, before, after, mode), axis=axis)
    return cast(node, x, dtype)


def _native(node: Node, x: Operand, pairs: Sequence[tuple[int, int]], mode: str) -> Operand:
    """MIL's padding of the last dimensions, of which it takes three at least."""
    more = list(range(3 - rank(x)))
    wide = node.mb.expand_dims(x=x, axes=more) if more else x
    made = node.mb.pad(x=wide, pad=[size for pair in pairs for size in pair], mode=mode)
    return node.mb.squeeze(x=made, axes=more) if more else made


def _computed(node: Node, x: Operand, mode: str, axes: Sequence[int]) -> Operand:
    """By amounts that the model computes."""
    if mode != "constant" or kind(x) != "fp32":
        raise node.refused(f"attribute mode={mode} with computed padding is not supported")
    if list(axes) != list(range(rank(x))):
        raise node.refused("computed padding of some axes only is not supported")
    both = node.mb.reshape(x=node.x(1), shape=[2, rank(x)])
    flat = node.mb.reshape(x=node.mb.transpose(x=both, perm=[1, 0]), shape=[2 * rank(x)])
    return node.mb.pad(x=x, pad=flat, mode="constant", constant_val=_filling(node, x))


TABLE: Mapping[str, Operator] = {
    "CenterCropPad": center_crop_pad,
    "Pad": pad,
    "Slice": slices,
}
