"""Small expressions in MIL that the lowering of several operators needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand

KINDS = {"f": "fp32", "i": "int32", "u": "int32", "b": "bool"}


def known(value: Operand) -> bool:
    """Whether it is a constant."""
    return isinstance(value, (np.ndarray, np.generic))


def kind(value: Operand) -> str:
    """MIL's name of the dtype: "fp32", "int32" or "bool"."""
    if known(value):
        return KINDS[value.dtype.kind]
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(value.dtype))


def shape(value: Operand) -> tuple[Any, ...]:
    """Sizes: an int, or a symbol where it is only known as the model runs."""
    return tuple(map(_settled, np.shape(value) if known(value) else value.shape))


def rank(value: Operand) -> int:
    """The number of dimensions."""
    return len(shape(value))


def is_fixed(sizes: Sequence[Any]) -> bool:
    """Whether all sizes are known."""
    return all(isinstance(size, int) for size in sizes)


def elements(value: Operand) -> list[Any] | None:
    """The elements of a vector of sizes: ints and symbols; None where nothing is known of them."""
    if known(value):
        return [int(one) for one in np.ravel(value)]
    found = value.sym_val
    return None if found is None else [_settled(one) for one in np.ravel(found)]


def cast(node: Node, value: Operand, dtype: str) -> Operand:
    """The value in another dtype of MIL; itself where it has that."""
    return value if kind(value) == dtype else node.mb.cast(x=value, dtype=dtype)


def axis_of(node: Node, axis: int, dims: int) -> int:
    """An axis that may be counted from the end, from the start."""
    if not -dims <= axis < max(dims, 1):
        raise node.refused(f"axis {axis} of a tensor of rank {dims}")
    return axis + dims if axis < 0 else axis


def size(node: Node, value: Operand, axis: int) -> Any:
    """The size of one dimension: an int, or a variable of shape (1,)."""
    fixed = shape(value)[axis]
    if isinstance(fixed, int):
        return fixed
    return node.mb.gather(x=node.mb.shape(x=value), indices=np.array([axis], np.int32), axis=0)


def sizes(node: Node, value: Operand) -> list[Any]:
    """The size of each dimension, as `size` gives it."""
    return [size(node, value, axis) for axis in range(rank(value))]


def vector(node: Node, parts: Sequence[Any]) -> Operand:
    """A vector of int32 from ints and variables of shape () or (1,)."""
    if all(isinstance(part, (int, np.integer)) for part in parts):
        return np.array(parts, np.int32)
    pieces = []
    for part in parts:
        if isinstance(part, (int, np.integer)):
            pieces.append(np.array([part], np.int32))
        else:
            pieces.append(node.mb.expand_dims(x=part, axes=[0]) if part.rank == 0 else part)
    return pieces[0] if len(pieces) == 1 else node.mb.concat(values=pieces, axis=0)


def product(node: Node, parts: Sequence[Any]) -> Any:
    """The product of sizes: an int, or a variable of shape (1,)."""
    fixed = int(np.prod([part for part in parts if isinstance(part, int)], dtype=np.int64))
    result: Any = None
    for part in parts:
        if not isinstance(part, int):
            result = part if result is None else node.mb.mul(x=result, y=part)
    if result is None:
        return fixed
    return result if fixed == 1 else node.mb.mul(x=result, y=np.int32(fixed))


def reshaped(node: Node, value: Operand, parts: Sequence[Any]) -> Operand:
    """The value with the sizes `parts`, as `size` gives them; one of them may be -1."""
    parts = list(parts)
    unknown = [index for index, part in enumerate(parts) if not isinstance(part, int)]
    if len(unknown) == 1 and -1 not in parts[: unknown[0]] + parts[unknown[0] + 1 :]:
        parts = [*parts[: unknown[0]], -1, *parts[unknown[0] + 1 :]]
    return node.mb.reshape(x=value, shape=vector(node, list(parts)))


def filled(node: Node, parts: Sequence[Any], value: Any) -> Operand:
    """A tensor of the sizes `parts`, all of it the numpy scalar `value`."""
    if all(isinstance(part, int) for part in parts):
        return np.full(parts, value)
    return node.mb.fill(shape=vector(node, parts), value=value)


def broadcast(node: Node, value: Operand, parts: Sequence[Any]) -> Operand:
    """The value repeated to the sizes `parts`, which it can be broadcast with."""
    dtype = kind(value)
    if dtype == "bool":
        return node.mb.logical_and(x=value, y=filled(node, parts, np.True_))
    zero = np.float32(0) if dtype == "fp32" else np.int32(0)
    return node.mb.add(x=value, y=filled(node, parts, zero))


def select(node: Node, cond: Operand, a: Operand, b: Operand) -> Operand:
    """`a` where `cond`, else `b`, all three broadcast: MIL infers the shape from a and b alone."""
    wide = shape(cond)
    if len(wide) > max(rank(a), rank(b)) or not _covers(wide, shape(a), shape(b)):
        a = broadcast(node, a, sizes(node, cond))
    return node.mb.select(cond=cond, a=a, b=b)


def moved(node: Node, value: Operand, order: Sequence[int]) -> Operand:
    """The value with its axes in another order; itself where that is theirs."""
    if list(order) == list(range(len(order))):
        return value
    return node.mb.transpose(x=value, perm=list(order))


def _covers(wide: Sequence[Any], *others: Sequence[Any]) -> bool:
    """Whether each dimension of `wide` is 1 or that of one of the others."""
    for axis, wanted in enumerate(reversed(wide)):
        found = [sizes[-1 - axis] for sizes in others if axis < len(sizes)]
        if wanted != 1 and not any(one == wanted for one in found):
            return False
    return True


def _settled(size: Any) -> Any:
    try:
        return int(size)
    except TypeError:
        return size
