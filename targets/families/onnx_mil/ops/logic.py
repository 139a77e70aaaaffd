"""Comparisons and logic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.ops.arithmetic import WIDE
from crosscast.targets.families.onnx_mil.values import cast, kind, known, select


def comparison(name: str) -> Operator:
    """A comparison that MIL has under `name`; booleans are compared as integers."""

    def lowered(node: Node) -> Operand:
        if node.dtype() in WIDE:
            raise node.refused(f"{node.dtype()} numbers, which Core ML has not")
        x, y = (_number(node, node.x(index)) for index in (0, 1))
        return getattr(node.mb, name)(x=x, y=y)

    return lowered


def binary(name: str) -> Operator:
    """A connective that MIL has under `name`."""

    def lowered(node: Node) -> Operand:
        return getattr(node.mb, name)(x=node.x(0), y=node.x(1))

    return lowered


def negation(node: Node) -> Operand:
    """Not."""
    return node.mb.logical_not(x=node.x())


def is_nan(node: Node) -> Operand:
    """Where x is not itself."""
    return node.mb.not_equal(x=node.x(), y=node.x())


def is_infinite(node: Node) -> Operand:
    """Where x is infinite, of either sign or of one."""
    mb, x = node.mb, node.x()
    above, below = node.attribute("detect_positive", 1), node.attribute("detect_negative", 1)
    if above and below:
        return mb.equal(x=mb.abs(x=x), y=np.float32(np.inf))
    if not above and not below:
        return mb.less(x=mb.abs(x=x), y=np.float32(0))
    return mb.equal(x=x, y=np.float32(np.inf if above else -np.inf))


def where(node: Node) -> Operand:
    """One or the other, all three broadcast."""
    return select(node, node.x(0), node.x(1), node.x(2))


def _number(node: Node, value: Operand) -> Operand:
    if kind(value) != "bool":
        return value
    return value.astype(np.int32) if known(value) else cast(node, value, "int32")


TABLE: Mapping[str, Operator] = {
    "And": binary("logical_and"),
    "Equal": comparison("equal"),
    "Greater": comparison("greater"),
    "GreaterOrEqual": comparison("greater_equal"),
    "IsInf": is_infinite,
    "IsNaN": is_nan,
    "Less": comparison("less"),
    "LessOrEqual": comparison("less_equal"),
    "Not": negation,
    "Or": binary("logical_or"),
    "Where": where,
    "Xor": binary("logical_xor"),
}
