"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import (
    kind,
    known,
    moved,
    product,
    rank,
    reshaped,
    shape,
    size,
)


def matmul(node: Node) -> Operand:
    """Numpy's matmul, of vectors too."""
    return _product(node, node.x(0), node.x(1))


def gemm(node: Node) -> Operand:
    """Alpha · A · B + beta · C, of matrices or their transposes."""
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    left, right = bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    a, b = node.x(0), node.x(1)
    if not left and known(b) and kind(a) == "fp32" and _takes_bias(node, beta):
        weight = (b if right else b.T) * np.float32(alpha)
        bias = {}
        if node.has(2):
            vector = np.broadcast_to(node.x(2) * np.float32(beta), (1, weight.shape[0]))[0]
            bias = {"bias": np.ascontiguousarray(vector)}
        return node.mb.linear(x=a, weight=np.ascontiguousarray(weight), **bias)
    made = node.mb.matmul(x=a, y=b, transpose_x=left, transpose_y=right)
    made = _times(node, made, alpha)
    if not node.has(2) or beta == 0:
        return made
    return node.mb.add(x=made, y=_times(node, node.x(2), beta))


def fused_matmul(node: Node) -> Operand:
    """Of ONNX Runtime: alpha times the product, of transposes of the last two axes."""
    node.only("transBatchA", 0)
    node.only("transBatchB", 0)
    made = node.mb.matmul(
        x=node.x(0),
        y=node.x(1),
        transpose_x=bool(node.attribute("transA", 0)),
        transpose_y=bool(node.attribute("transB", 0)),
    )
    return _times(node, made, float(node.attribute("alpha", 1.0)))


def einsum(node: Node) -> Operand:
    """Einstein's sum of any number of operands, two at a time."""
    operands = [node.x(index) for index in range(len(node))]
    terms, wanted = parsed(node.attribute("equation"), [rank(one) for one in operands])
    if any(len(set(term)) < len(term) for term in terms):
        raise node.refused("attribute equation: an index twice in one operand is not supported")
    made, term = operands[0], terms[0]
    made, term = _summed(node, made, term, {*wanted, *"".join(terms[1:])})
    for index in range(1, len(operands)):
        later = {*wanted, *"".join(terms[index + 1 :])}
        other, its = _summed(node, operands[index], terms[index], later | set(term))
        made, term = _summed(node, made, term, later | set(its))
        made, term = _pair(node, (made, term), (other, its), later)
    made, term = _summed(node, made, term, set(wanted))
    if len(operands) == 1:
        made = node.mb.identity(x=made)
    return moved(node, made, [term.index(one) for one in wanted])


def parsed(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The indices of each operand and of the result; those of an ellipsis are digits, counted from
    the last one.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    longest = max(
        (dims - len(term) + 3 for term, dims in zip(terms, ranks, strict=True) if "..." in term),
        default=0,
    )
    spelled = []
    for term, dims in zip(terms, ranks, strict=True):
        count = dims - len(term) + 3
        digits = "".join(str(longest - count + at) for at in range(count))
        spelled.append(term.replace("...", digits))
    all_digits = "".join(str(at) for at in range(longest))
    if arrow:
        return spelled, right.replace("...", all_digits)
    plain = "".join(terms).replace("...", "")
    once = "".join(sorted(one for one in set(plain) if plain.count(one) == 1))
    return spelled, all_digits + once


def _summed(node: Node, value: Operand, term: str, kept: set[str]) -> tuple[Operand, str]:
    """The value summed over its indices that nobody needs any more."""
    axes = [axis for axis, one in enumerate(term) if one not in kept]
    if not axes:
        return value, term
    made = node.mb.reduce_sum(x=value, axes=axes, keep_dims=False)
    return made, "".join(one for one in term if one in kept)


def _pair(
    node: Node, first: tuple[Operand, str], second: tuple[Operand, str], later: set[str]
) -> tuple[Operand, str]:
    """The product of two operands, summed over what they share and nobody needs later."""
    (a, mine), (b, its) = first, second
    shared = [one for one in mine if one in its]
    batch = [one for one in shared if one in later]
    inner = [one for one in shared if one not in later]
    rows = [one for one in mine if one not in its]
    columns = [one for one in its if one not in mine]
    if not inner and not shared:
        return _outer(node, a, b, rows, columns)
    a = moved(node, a, [mine.index(one) for one in batch + rows + inner])
    b = moved(node, b, [its.index(one) for one in batch + inner + columns])
    sizes = _sizes(node, a, batch + rows + inner) | _sizes(node, b, batch + inner + columns)
    for one in shared:
        mine_size = shape(first[0])[mine.index(one)]
        if mine_size != shape(second[0])[its.index(one)]:
            raise node.refused("attribute equation: operands that are broadcast are not supported")
    together = [sizes[one] for one in batch]
    a = reshaped(node, a, [*together, _all(node, sizes, rows), _all(node, sizes, inner)])
    b = reshaped(node, b, [*together, _all(node, sizes, inner), _all(node, sizes, columns)])
    made = node.mb.matmul(x=a, y=b)
    order = batch + rows + columns
    return reshaped(node, made, [sizes[one] for one in order]), "".join(order)


def _outer(
    node: Node, a: Operand, b: Operand, rows: Sequence[str], columns: Sequence[str]
) -> tuple[Operand, str]:
    wide = a
    if columns and rows:
        wide = node.mb.expand_dims(x=a, axes=list(range(len(rows), len(rows) + len(columns))))
    return node.mb.mul(x=wide, y=b), "".join([*rows, *columns])


def _sizes(node: Node, value: Operand, term: Sequence[str]) -> dict[str, Any]:
    return {one: size(node, value, axis) for axis, one in enumerate(term)}


def _all(node: Node, sizes: Mapping[str, Any], term: Sequence[str]) -> Any:
    return product(node, [sizes[one] for one in term])


def _product(node: Node, a: Operand, b: Operand) -> Operand:
    thin, flat = rank(a) == 1, rank(b) == 1
    if thin:
        a = a[None] if known(a) else node.mb.expand_dims(x=a, axes=[0])
    if flat:
        b = b[:, None] if known(b) else node.mb.expand_dims(x=b, axes=[1])
    if _is_linear(a, b):
        made = node.mb.linear(x=a, weight=np.ascontiguousarray(b.T))
    else:
        made = node.mb.matmul(x=a, y=b)
    axes = ([-1] if flat else []) + ([-2] if thin else [])
    return node.mb.squeeze(x=made, axes=axes) if axes else made


def _is_linear(a: Operand, b: Operand) -> bool:
    return known(b) and not known(a) and b.ndim == 2 and kind(a) == "fp32" and rank(a) <= 3


def _takes_bias(node: Node, beta: float) -> bool:
    if not node.has(2):
        return True
    if not node.is_constant(2):
        return False
    bias = shape(node.x(2))
    return beta != 0 and (len(bias) < 2 or bias[0] == 1)


def _times(node: Node, value: Operand, factor: float) -> Operand:
    if factor == 1:
        return value
    if kind(value) == "fp32":
        return node.mb.mul(x=value, y=np.float32(factor))
    if factor != int(factor):
        raise node.refused(f"integers times {factor}")
    return node.mb.mul(x=value, y=np.int32(factor))


TABLE: Mapping[str, Operator] = {
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": matmul,
    "com.microsoft.FusedMatMul": fused_matmul,
}
