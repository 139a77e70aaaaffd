"""Pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.ops.windows import Window, ceil_pads, window_of
from crosscast.targets.families.onnx_mil.values import is_fixed, rank, shape

MOST_TAPS = 64
"""Elements of a dilated window, each of which becomes an operator of its own."""


def max_pool(node: Node) -> Operand:
    """MaxPool without indices."""
    node.only("storage_order", 0)
    if node.wants(1):
        raise node.refused("its indices are used, which Core ML's pooling does not give")
    x = node.x()
    window, extra = _window(node, x)
    if max(window.dilations) > 1:
        return _taps(node, _padded(node, x, window.pads, extra, -np.inf), window, "maximum")
    if any(extra):
        window = _with(window, extra)
    return node.mb.max_pool(x=x, **_arguments(window))


def average_pool(node: Node) -> Operand:
    """AveragePool; where MIL's divisor is another, sums are divided by counts made here."""
    x, counted = node.x(), bool(node.attribute("count_include_pad", 0))
    window, extra = _window(node, x)
    if not any(extra) and max(window.dilations) == 1:
        return node.mb.avg_pool(x=x, exclude_padding_from_average=not counted, **_arguments(window))
    sizes = _fixed(node, x)
    total = _sums(node, _padded(node, x, window.pads, extra, 0.0), window)
    return node.mb.real_div(x=total, y=counts(sizes, window, extra, counted=counted))


def lp_pool(node: Node) -> Operand:
    """The p-th root of the sum of |x|^p in each window."""
    p = node.attribute("p", 2)
    window, extra = _window(node, node.x())
    raised = node.mb.pow(x=node.mb.abs(x=node.x()), y=np.float32(p))
    total = _sums(node, _padded(node, raised, window.pads, extra, 0.0), window)
    return node.mb.pow(x=total, y=np.float32(1 / p))


def of_everything(name: str) -> Operator:
    """A pooling over all spatial dimensions, which MIL has as the reduction `name`."""

    def lowered(node: Node) -> Operand:
        axes = list(range(2, rank(node.x())))
        return getattr(node.mb, name)(x=node.x(), axes=axes, keep_dims=True)

    return lowered


def global_lp_pool(node: Node) -> Operand:
    """LpPool over all spatial dimensions."""
    p, axes = node.attribute("p", 2), list(range(2, rank(node.x())))
    raised = node.mb.pow(x=node.mb.abs(x=node.x()), y=np.float32(p))
    total = node.mb.reduce_sum(x=raised, axes=axes, keep_dims=True)
    return node.mb.pow(x=total, y=np.float32(1 / p))


def counts(sizes: Sequence[int], window: Window, extra: Sequence[int], *, counted: bool) -> Any:
    """How many elements each window averages: those of the input, and with `counted` the padding
    that was asked for, but never what only ceil_mode adds.
    """
    inside = np.full(tuple(sizes), 1.0, np.float32)
    pairs = list(zip(window.pads[::2], window.pads[1::2], strict=True))
    inside = np.pad(inside, pairs, constant_values=float(counted))
    inside = np.pad(inside, [(0, one) for one in extra])
    spans = (
        (size - reach) // stride + 1
        for size, reach, stride in zip(inside.shape, window.reach, window.strides, strict=True)
    )
    total = np.zeros(tuple(spans), np.float32)
    for tap in product(*map(range, window.kernel)):
        total += inside[_slices(tap, total.shape, window)]
    return total[None, None]


def _slices(tap: Sequence[int], shape: Sequence[int], window: Window) -> tuple[slice, ...]:
    starts = [at * step for at, step in zip(tap, window.dilations, strict=True)]
    return tuple(
        slice(start, start + (count - 1) * stride + 1, stride)
        for start, count, stride in zip(starts, shape, window.strides, strict=True)
    )


def _window(node: Node, x: Operand) -> tuple[Window, tuple[int, ...]]:
    """The window, and what ceil_mode adds behind each dimension."""
    if not 3 <= rank(x) <= 5:
        raise node.refused(f"an input of rank {rank(x)}; Core ML pools rank 3 to 5")
    kernel = node.attribute("kernel_shape")
    window = window_of(node, kernel, shape(x)[2:])
    rounded = node.attribute("ceil_mode", 0) and not window.same
    none = (0,) * len(kernel)
    if not rounded or node.attribute("auto_pad", "NOTSET") != "NOTSET":
        return window, none
    if all(stride == 1 for stride in window.strides):
        return window, none
    return window, ceil_pads(_fixed(node, x), window)


def _fixed(node: Node, x: Operand) -> Sequence[int]:
    sizes = shape(x)[2:]
    if not is_fixed(sizes):
        raise node.refused(
            "with ceil_mode or dilations it needs to know the size of its input",
            "declare the sizes of the inputs as fixed, or remove this target",
        )
    return sizes


def _with(window: Window, extra: Sequence[int]) -> Window:
    pads = [pad + (extra[index // 2] if index % 2 else 0) for index, pad in enumerate(window.pads)]
    return Window(
        kernel=window.kernel, strides=window.strides, dilations=window.dilations, pads=tuple(pads)
    )


def _arguments(window: Window) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kernel_sizes": list(window.kernel),
        "strides": list(window.strides),
    }
    if window.same:
        return found | {"pad_type": window.same}
    if any(window.pads):
        return found | {"pad_type": "custom", "pad": list(window.pads)}
    return found | {"pad_type": "valid"}


def _padded(
    node: Node, x: Operand, pads: Sequence[int], extra: Sequence[int], value: float
) -> Operand:
    pairs = [0, 0, 0, 0]
    for axis, more in enumerate(extra):
        pairs += [pads[2 * axis], pads[2 * axis + 1] + more]
    if not any(pairs):
        return x
    return node.mb.pad(x=x, pad=pairs, mode="constant", constant_val=np.float32(value))


def _sums(node: Node, x: Operand, window: Window) -> Operand:
    """The sum of each window of what is padded already."""
    if max(window.dilations) > 1:
        return _taps(node, x, window, "add")
    if window.same:
        raise node.refused("automatic padding of an input whose size is not known")
    pooled = node.mb.avg_pool(
        x=x,
        kernel_sizes=list(window.kernel),
        strides=list(window.strides),
        pad_type="valid",
    )
    return node.mb.mul(x=pooled, y=np.float32(np.prod(window.kernel)))


def _taps(node: Node, x: Operand, window: Window, name: str) -> Operand:
    """A dilated window: each of its elements is a slice of the padded input."""
    sizes = _fixed(node, x)
    if np.prod(window.kernel) > MOST_TAPS:
        raise node.refused(f"attribute dilations={list(window.dilations)} of so large a window")
    spans = [
        (size - reach) // stride + 1
        for size, reach, stride in zip(sizes, window.reach, window.strides, strict=True)
    ]
    made = None
    for tap in product(*map(range, window.kernel)):
        cuts = _slices(tap, spans, window)
        part = node.mb.slice_by_index(
            x=x,
            begin=[0, 0, *(cut.start for cut in cuts)],
            end=[0, 0, *(cut.stop for cut in cuts)],
            stride=[1, 1, *(cut.step for cut in cuts)],
            end_mask=[True, True, *(False for _ in cuts)],
        )
        made = part if made is None else getattr(node.mb, name)(x=made, y=part)
    return made


TABLE: Mapping[str, Operator] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": of_everything("reduce_mean"),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": of_everything("reduce_max"),
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
