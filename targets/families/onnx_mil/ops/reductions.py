"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.ops.arithmetic import WIDE, wrapped
from crosscast.targets.families.onnx_mil.values import axis_of, cast, kind, rank

Before = Callable[[Node, Operand], Operand]


def reduction(name: str, *, floats: bool = False) -> Operator:
    """A reduction that MIL has under `name`; with `floats`, of those only."""

    def lowered(node: Node) -> Operand:
        if node.dtype() in WIDE:
            raise node.refused(f"{node.dtype()} numbers, which Core ML has not")
        x, keep = node.x(0), bool(node.attribute("keepdims", 1))
        axes = axes_of(node, rank(x))
        if axes is None:
            return node.mb.identity(x=x)
        if floats and kind(x) != "fp32":
            raise node.refused(f"of {node.dtype()} numbers; Core ML has it for floats only")
        narrow = cast(node, x, "int32") if kind(x) == "bool" else x
        if not axes:
            axes = None
        made = _reduced(node, name, narrow, axes, keep)
        return wrapped(node, cast(node, made, kind(x)), node.dtype())

    return lowered


def of_logarithm(node: Node) -> Operand:
    """log(sum(x)), without the epsilon that MIL would add."""
    made = _floats(node, "reduce_sum", lambda _, x: x)
    return node.mb.log(x=made, epsilon=np.float32(0))


def of_exponents(node: Node) -> Operand:
    """log(sum(exp(x)))."""
    return _floats(node, "reduce_log_sum_exp", lambda _, x: x)


def axes_of(node: Node, dims: int) -> list[int] | None:
    """The axes to reduce, all of them by default; None where nothing is to be done."""
    given = node.ints(1, "axes") if node.has(1) else list(node.attribute("axes", []))
    if not given and node.attribute("noop_with_empty_axes", 0):
        return None
    node.ignore("noop_with_empty_axes")
    return sorted(axis_of(node, axis, dims) for axis in given) or list(range(dims))


def _floats(node: Node, name: str, before: Before) -> Operand:
    x, keep = node.x(0), bool(node.attribute("keepdims", 1))
    if kind(x) != "fp32":
        raise node.refused(f"of {node.dtype()} numbers; Core ML has it for floats only")
    axes = axes_of(node, rank(x))
    if axes is None:
        raise node.refused("attribute noop_with_empty_axes=1 without axes is not supported")
    return _reduced(node, name, before(node, x), axes, keep)


def _reduced(node: Node, name: str, x: Operand, axes: list[int] | None, keep: bool) -> Operand:
    if axes is None:  # a tensor without dimensions
        x = node.mb.expand_dims(x=x, axes=[0])
        return getattr(node.mb, name)(x=x, axes=[0], keep_dims=False)
    return getattr(node.mb, name)(x=x, axes=axes, keep_dims=keep)


TABLE: Mapping[str, Operator] = {
    "ReduceL1": reduction("reduce_l1_norm"),
    "ReduceL2": reduction("reduce_l2_norm", floats=True),
    "ReduceLogSum": of_logarithm,
    "ReduceLogSumExp": of_exponents,
    "ReduceMax": reduction("reduce_max"),
    "ReduceMean": reduction("reduce_mean", floats=True),
    "ReduceMin": reduction("reduce_min"),
    "ReduceProd": reduction("reduce_prod"),
    "ReduceSum": reduction("reduce_sum"),
    "ReduceSumSquare": reduction("reduce_sum_square"),
}
