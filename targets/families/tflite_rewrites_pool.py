"""Rewrites of poolings that TFLite lacks: over holes, and over windows that reach beyond."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_rewrites_facts import Facts, attribute

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from crosscast.targets.families.onnx_nodes import Spelling

LOWEST = -3.4028234e38


def max_pool(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """A window with holes as the greatest of shifted views, one for each of its places; padding
    that is apart where sizes are dynamic.
    """
    kernel = attribute(node, "kernel_shape", [])
    dilations = attribute(node, "dilations", [1] * len(kernel))
    sizes = facts.spatial(node.input[0])
    out = facts.spatial(node.output[0])
    plain = set(dilations) == {1}
    if plain and not any(node.output[1:]):
        return _set_apart(node, spell, facts, LOWEST)
    if plain or sizes is None or out is None or any(node.output[1:]):
        return False
    strides = attribute(node, "strides", [1] * len(kernel))
    before = _pads_before(node, sizes, out)
    reach = [
        (count - 1) * stride + (width - 1) * hole + 1
        for count, stride, width, hole in zip(out, strides, kernel, dilations, strict=True)
    ]
    padded = _padded(spell, node.input[0], sizes, before, reach, LOWEST)
    axes = spell.constant(list(range(2, 2 + len(kernel))))
    views = []
    for place in itertools.product(*map(range, kernel)):
        start = [index * hole for index, hole in zip(place, dilations, strict=True)]
        end = [
            first + (count - 1) * stride + 1
            for first, count, stride in zip(start, out, strides, strict=True)
        ]
        limits = [spell.constant(start), spell.constant(end), axes, spell.constant(strides)]
        views.append(spell("Slice", [padded, *limits]))
    spell("Max", views, output=node.output[0])
    return None


def average_pool(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """Windows that reach beyond the input (ceil_mode): padded with zeros, averaged, and corrected
    by how many elements each window should have counted. Padding that is apart where sizes are
    dynamic.
    """
    sizes, out = facts.spatial(node.input[0]), facts.spatial(node.output[0])
    if not attribute(node, "ceil_mode", 0):
        return _set_apart(node, spell, facts, 0.0)
    if sizes is None or out is None:
        return False
    kernel = attribute(node, "kernel_shape", [])
    strides = attribute(node, "strides", [1] * len(kernel))
    if set(attribute(node, "dilations", [1])) != {1}:
        return False
    before = _pads_before(node, sizes, out)
    after = attribute(node, "pads", [0] * 2 * len(kernel))[len(kernel) :]
    reach = [
        (count - 1) * stride + width
        for count, stride, width in zip(out, strides, kernel, strict=True)
    ]
    padded = _padded(spell, node.input[0], sizes, before, reach, 0.0)
    mean = spell("AveragePool", [padded], kernel_shape=kernel, strides=strides)
    counted = [
        (-low, size + high) if attribute(node, "count_include_pad", 0) else (0, size)
        for low, high, size in zip(before, after, sizes, strict=True)
    ]
    factor = _factor(kernel, strides, before, out, counted)
    spell("Mul", [mean, spell.array(factor)], output=node.output[0])
    return None


def _set_apart(node: NodeProto, spell: Spelling, facts: Facts, value: float) -> bool | None:
    """Padding, then windows without any, where sizes are dynamic: onnx2tf takes padding that suits
    one size, such as none at all, for SAME, which is another one for others.
    """
    is_fixed = facts.spatial(node.input[0]) is not None and not facts.any_size
    found = {name: attribute(node, name, None) for name in ("auto_pad", "ceil_mode", "pads")}
    if is_fixed or found["auto_pad"] not in (None, "NOTSET") or found["ceil_mode"]:
        return False
    kernel, pads = attribute(node, "kernel_shape", []), found["pads"]
    padded = bool(pads) and any(pads)
    counts = attribute(node, "count_include_pad", 0)
    if padded and (_is_same(node, kernel) or (node.op_type == "AveragePool" and not counts)):
        return False
    source = node.input[0]
    if padded:
        count = len(kernel)
        amounts = spell.constant([0, 0, *pads[:count], 0, 0, *pads[count:]])
        source = spell("Pad", [source, amounts, spell.constant(value)], mode="constant")
    strides = attribute(node, "strides", [1] * len(kernel))
    settings = {"kernel_shape": kernel, "strides": strides, "auto_pad": "VALID"}
    spell(node.op_type, [source], output=node.output[0], **settings)
    return None


def _is_same(node: NodeProto, kernel: Sequence[int]) -> bool:
    """Whether the padding is SAME for every size."""
    pads = attribute(node, "pads", [0] * 2 * len(kernel))
    halves = [(width - 1) // 2 for width in kernel]
    odd = all(width % 2 for width in kernel)
    return odd and set(attribute(node, "strides", [1])) == {1} and pads == [*halves, *halves]


def _factor(
    kernel: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    out: Sequence[int],
    counted: Sequence[tuple[int, int]],
) -> NDArray[Any]:
    """The window's size over the number of its elements within `counted`, for each window."""
    import numpy as np

    factor = np.ones((1, 1, *(1 for _ in kernel)), np.float32)
    for axis, width in enumerate(kernel):
        starts = np.arange(out[axis]) * strides[axis] - before[axis]
        low, high = counted[axis]
        number = np.minimum(starts + width, high) - np.maximum(starts, low)
        shape = [1] * factor.ndim
        shape[axis + 2] = -1
        factor = factor * (width / number).astype(np.float32).reshape(shape)
    return factor


def _pads_before(node: NodeProto, sizes: Sequence[int], out: Sequence[int]) -> list[int]:
    """How far the first window begins before the input, along each axis."""
    auto = attribute(node, "auto_pad", "NOTSET")
    kernel = attribute(node, "kernel_shape", [])
    if auto in ("NOTSET", "VALID"):
        return list(attribute(node, "pads", [0] * 2 * len(kernel))[: len(kernel)])
    strides = attribute(node, "strides", [1] * len(kernel))
    dilations = attribute(node, "dilations", [1] * len(kernel))
    total = [
        max(0, (count - 1) * stride + (width - 1) * hole + 1 - size)
        for count, stride, width, hole, size in zip(
            out, strides, kernel, dilations, sizes, strict=True
        )
    ]
    return [(each + (auto == "SAME_LOWER")) // 2 for each in total]


def _padded(
    spell: Spelling,
    source: str,
    sizes: Sequence[int],
    before: Sequence[int],
    reach: Sequence[int],
    value: float,
) -> str:
    """The source with `value` around it, as far as windows reach."""
    after = [max(0, far - low - size) for far, low, size in zip(reach, before, sizes, strict=True)]
    if not any(before) and not any(after):
        return source
    pads = spell.constant([0, 0, *before, 0, 0, *after])
    return spell("Pad", [source, pads, spell.constant(value)], mode="constant")
