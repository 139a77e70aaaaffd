"""Rewrites of arithmetic: activations, normalizations, sums."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_rewrites_facts import Facts, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

    from crosscast.targets.families.onnx_nodes import Spelling

FLOAT, INT32, INT64 = 1, 6, 7
NEAR = 1e-4
"""Bounds this near a whole number may be taken for it: onnx2tf's tolerances are below 2e-5."""


def elu(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:  # noqa: ARG001
    """The part below zero scaled apart: TFLite's ELU has no alpha, and onnx2tf drops it."""
    alpha = float(attribute(node, "alpha", 1.0))
    if alpha == 1.0:
        return False
    below = spell("Elu", [spell("Min", [node.input[0], spell.constant(0.0)])])
    scaled = spell("Mul", [below, spell.constant(alpha)])
    spell("Add", [spell("Relu", [node.input[0]]), scaled], output=node.output[0])
    return None


def hard_sigmoid(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """By a RELU6, which int8 has: clip(x + beta / alpha, 0, 1 / alpha) * alpha."""
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    if abs(6 * alpha - 1) > 1e-6 or facts.kinds.get(node.input[0]) != FLOAT:
        return False
    moved = spell("Add", [node.input[0], spell.constant(6 * beta)])
    clipped = spell("Clip", [moved, spell.constant(0.0), spell.constant(6.0)])
    spell("Mul", [clipped, spell.constant(1 / 6)], output=node.output[0])
    return None


def clip(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """By Max and Min where onnx2tf loses a bound: one nearly that of a RELU, RELU6 or
    RELU_N1_TO_1, which it then writes, or a computed upper one.

    Nearly 0 is the bound under a norm that is divided by, or under a logarithm.
    """
    low, high = [*node.input[1:], "", ""][:2]
    values = {name: facts.constant(name) for name in (low, high) if name}
    if all(value is not None and not _is_nearly_whole(value) for value in values.values()):
        return False
    bounds = [(kind, name) for kind, name in (("Max", low), ("Min", high)) if name]
    clipped = node.input[0]
    for kind, name in bounds:
        last = (kind, name) == bounds[-1]
        clipped = spell(kind, [clipped, name], output=node.output[0] if last else "")
    return None


def _is_nearly_whole(bound: Any) -> bool:
    value = float(bound.reshape(-1)[0])
    return math.isfinite(value) and 0 < abs(value - round(value)) < NEAR


def layer_normalization(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """By means, since onnx2tf gives up where it does not know the shape."""
    source, scale, *shift = node.input
    shape = facts.shape(source)
    if shape is None or any(node.output[1:]) or facts.kinds.get(source) != FLOAT:
        return False
    axis = int(attribute(node, "axis", -1)) % len(shape)
    axes = range(axis - len(shape), 0)
    centred = spell("Sub", [source, facts.reduce(spell, "ReduceMean", source, axes)])
    variance = facts.reduce(spell, "ReduceMean", spell("Mul", [centred, centred]), axes)
    epsilon = spell.constant(float(attribute(node, "epsilon", 1e-5)))
    spread = spell("Sqrt", [spell("Add", [variance, epsilon])])
    normal = spell("Div", [centred, spread])
    if any(shift):
        spell("Add", [spell("Mul", [normal, scale]), shift[0]], output=node.output[0])
    else:
        spell("Mul", [normal, scale], output=node.output[0])
    return None


def absolute(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """Of int64, which LiteRT's ABS does not take: the greater of x and -x."""
    if facts.kinds.get(node.input[0]) != INT64:
        return False
    spell("Max", [node.input[0], spell("Neg", [node.input[0]])], output=node.output[0])
    return None


def cum_sum(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """In floats, exact up to 2**24: LiteRT sums integers wrongly."""
    kind = facts.kinds.get(node.input[0])
    if kind not in (INT32, INT64):
        return False
    summed = spell(
        "CumSum",
        [spell("Cast", [node.input[0]], to=FLOAT), node.input[1]],
        exclusive=attribute(node, "exclusive", 0),
        reverse=attribute(node, "reverse", 0),
    )
    spell("Cast", [summed], output=node.output[0], to=kind)
    return None


def einsum(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """A diagonal, an index twice in one operand, as a sum over a matrix of which the rest is 0."""
    import numpy as np

    equation = attribute(node, "equation", "").replace(" ", "")
    source, _, result = equation.partition("->")
    shape = facts.shape(node.input[0])
    doubled = [letter for letter in dict.fromkeys(source) if source.count(letter) == 2]
    if len(node.input) > 1 or len(doubled) != 1 or shape is None or "." in equation:
        return False
    one, two = (place for place, letter in enumerate(source) if letter == doubled[0])
    size = shape[one]
    if size is None:
        return False
    mask = np.eye(size, dtype=np.float32)
    mask = mask.reshape([size if place in (one, two) else 1 for place in range(len(shape))])
    kept = spell("Mul", [node.input[0], spell.array(mask)])
    rest = source[:two] + source[two + 1 :]
    summed = facts.reduce(spell, "ReduceSum", kept, [two], keep=False)
    gone = [place for place, letter in enumerate(rest) if letter not in result]
    if gone:
        summed = facts.reduce(spell, "ReduceSum", summed, gone, keep=False)
    left = [letter for letter in rest if letter in result]
    order = [left.index(letter) for letter in result]
    spell("Transpose", [summed], output=node.output[0], perm=order)
    return None


def where(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """A quotient that is taken where its divisor is not 0, by a divisor that is 1 elsewhere.

    onnx2tf selects by sums of products where shapes differ, and 0 * NaN is NaN.
    """
    condition, *branches = node.input
    place = next((place for place, name in enumerate(branches) if name in facts.quotients), None)
    if place is None or facts.kinds.get(branches[place]) != FLOAT:
        return False
    dividend, divisor = facts.quotients[branches[place]]
    if facts.constant(divisor) is not None:
        return False
    chosen = spell("Cast", [condition], to=FLOAT)
    other = spell("Sub", [spell.constant(1.0), chosen])
    taken, left = (chosen, other) if place == 0 else (other, chosen)
    safe = spell("Add", [spell("Mul", [divisor, taken]), left])
    branches[place] = spell("Div", [dividend, safe])
    spell("Where", [condition, *branches], output=node.output[0])
    return None
