"""Rewrites of convolutions: along one axis, and with weights that are computed."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_rewrites_facts import Facts, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

    from crosscast.targets.families.onnx_nodes import Spelling

PER_AXIS = ("kernel_shape", "strides", "dilations")


def conv(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """Grouped ones along one axis as two-dimensional ones; those with computed weights as matrix
    products: onnx2tf has rules for neither.
    """
    weights = facts.shape(node.input[1])
    if node.input[1] not in facts.constants:
        return _unfolded(node, spell, facts)
    if weights is None or len(weights) != 3 or attribute(node, "group", 1) == 1:
        return False
    _widen(node, spell, facts)
    return None


def conv_transpose(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """Those along one axis as two-dimensional ones: onnx2tf loses a reshaping before them."""
    weights = facts.constant(node.input[1])
    if weights is None or weights.ndim != 3:
        return False
    _widen(node, spell, facts)
    return None


def _widen(node: NodeProto, spell: Spelling, facts: Facts) -> None:
    """Unsqueeze -> the operator in two dimensions, the first of size 1 -> Squeeze."""
    source, weights, *bias = node.input
    values = facts.constant(weights)
    assert values is not None
    axes = spell.constant([2])
    wide = spell(
        node.op_type,
        [spell("Unsqueeze", [source, axes]), spell.array(values[:, :, None]), *bias],
        **_widened(node),
    )
    spell("Squeeze", [wide, axes], output=node.output[0])


def _widened(node: NodeProto) -> dict[str, Any]:
    """The attributes of a one-dimensional operator in two dimensions."""
    from onnx import helper

    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    for name, value in found.items():
        if name in PER_AXIS:
            found[name] = [1, *value]
        elif name == "pads":
            found[name] = [0, value[0], 0, value[1]]
        elif name == "output_padding":
            found[name] = [0, *value]
        elif name == "output_shape":
            found[name] = [1, *value]
    return found


def _unfolded(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """A convolution with computed weights: the products of shifted views with each place of the
    kernel, summed.
    """
    source, weights, *bias = node.input
    kernel, out = facts.fixed(weights), facts.spatial(node.output[0])
    sizes, shape = facts.spatial(source), facts.shape(source)
    groups = attribute(node, "group", 1)
    if not kernel or not out or not sizes or shape is None or len(kernel) != 4:
        return False
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    if groups != 1 and (groups != kernel[0] or kernel[1] != 1):
        return False
    strides, holes = (attribute(node, name, [1, 1]) for name in ("strides", "dilations"))
    pads = attribute(node, "pads", [0, 0, 0, 0])
    padded = source
    if any(pads):
        amounts = spell.constant([0, 0, *pads[:2], 0, 0, *pads[2:]])
        padded = spell("Pad", [source, amounts, spell.constant(0.0)], mode="constant")
    axes, step = spell.constant([2, 3]), spell.constant(strides)
    total = ""
    for row, column in itertools.product(range(kernel[2]), range(kernel[3])):
        start = [row * holes[0], column * holes[1]]
        end = [
            first + (n - 1) * stride + 1
            for first, n, stride in zip(start, out, strides, strict=True)
        ]
        view = spell("Slice", [padded, spell.constant(start), spell.constant(end), axes, step])
        place = [spell.constant([row, column]), spell.constant([row + 1, column + 1]), axes]
        filters = spell("Slice", [weights, *place])
        part = _product(spell, view, filters, kernel, out, groups)
        total = spell("Add", [total, part]) if total else part
    if any(bias):
        total = spell(
            "Add", [total, spell("Reshape", [bias[0], spell.constant([1, kernel[0], 1, 1])])]
        )
    spell("Identity", [total], output=node.output[0])
    return None


def _product(
    spell: Spelling,
    view: str,
    filters: str,
    kernel: tuple[int, ...],
    out: tuple[int, ...],
    groups: int,
) -> str:
    """One place of a kernel times one view: over all channels, or channel by channel."""
    if groups > 1:
        column = spell("Reshape", [filters, spell.constant([1, kernel[0], 1, 1])])
        return spell("Mul", [view, column])
    matrix = spell("Reshape", [filters, spell.constant([1, kernel[0], kernel[1]])])
    flat = spell("Reshape", [view, spell.constant([-1, kernel[1], out[0] * out[1]])])
    product = spell("MatMul", [matrix, flat])
    return spell("Reshape", [product, spell.constant([-1, kernel[0], *out])])
