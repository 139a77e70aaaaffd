"""Convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import FREEZE, Node, Operand, Operator
from crosscast.targets.families.onnx_mil.ops.windows import Window, window_of
from crosscast.targets.families.onnx_mil.values import is_fixed, known, rank, shape


def convolution(node: Node) -> Operand:
    """Conv in 1 to 3 dimensions."""
    x, weight = node.x(0), node.x(1)
    _require_rank(node, x)
    kernel = shape(weight)[2:]
    _expect_kernel(node, kernel)
    window = window_of(node, kernel, shape(x)[2:])
    if not known(weight) and max(window.dilations) > 1:
        raise node.refused("its weights are computed by the model and it is dilated", FREEZE)
    made = node.mb.conv(
        x=x,
        weight=weight,
        strides=list(window.strides),
        dilations=list(window.dilations),
        groups=node.attribute("group", 1),
        **_padding(window),
        **_bias(node),
    )
    return _biased(node, made)


def transposed(node: Node) -> Operand:
    """ConvTranspose in 1 to 3 dimensions.

    MIL's `output_shape` is not used for `output_padding`: less is cut off behind, and where
    nothing is left to be cut, zeros follow.
    """
    x, weight = node.x(0), node.constant(1, "weights")
    _require_rank(node, x)
    _expect_kernel(node, weight.shape[2:])
    window, more = _transposed_window(node, weight.shape[2:], shape(x)[2:])
    bias = _bias(node) if not any(more) else {}
    made = node.mb.conv_transpose(
        x=x,
        weight=node.mil(weight),
        strides=list(window.strides),
        dilations=list(window.dilations),
        groups=node.attribute("group", 1),
        **_padding(window),
        **bias,
    )
    if any(more):
        pads = [0, 0, 0, 0] + [size for one in more for size in (0, one)]
        made = node.mb.pad(x=made, pad=pads, mode="constant", constant_val=np.float32(0))
    return made if bias else _biased(node, made, even_known=any(more))


def _transposed_window(
    node: Node, kernel: Sequence[int], sizes: Sequence[Any]
) -> tuple[Window, tuple[int, ...]]:
    """The window with what is cut off, and how many zeros follow each dimension."""
    count = len(kernel)
    strides = node.attribute("strides", [1] * count)
    dilations = node.attribute("dilations", [1] * count)
    added = node.attribute("output_padding", [0] * count)
    way = node.attribute("auto_pad", "NOTSET")
    given = node.attribute("pads", [0] * (2 * count))
    wanted = node.attribute("output_shape")
    pads, more = [], []
    for axis in range(count):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        if wanted is None and way in ("NOTSET", "VALID"):
            before, after = (given[axis], given[count + axis]) if way == "NOTSET" else (0, 0)
        else:
            total = _cut(node, wanted, axis, sizes[axis], strides[axis], reach + added[axis])
            before = total // 2 if way == "SAME_UPPER" else total - total // 2
            after = total - before
        pads += [before, max(after - added[axis], 0)]
        more.append(max(added[axis] - after, 0))
    if min(pads) < 0:
        raise node.refused(f"attribute pads={given}: negative padding is not supported")
    window = Window(
        kernel=tuple(kernel), strides=tuple(strides), dilations=tuple(dilations), pads=tuple(pads)
    )
    return window, tuple(more)


def _cut(node: Node, wanted: Any, axis: int, size: Any, stride: int, reach: int) -> int:
    """How much is cut off so that a dimension has its output size."""
    if wanted is None:
        return max(reach - stride, 0)
    if not isinstance(size, int):
        raise node.refused(
            "attribute output_shape of an input whose size is only known as the model runs"
        )
    return int(stride * (size - 1) + reach - wanted[axis])


def _require_rank(node: Node, x: Operand) -> None:
    if not 3 <= rank(x) <= 5:
        raise node.refused(f"an input of rank {rank(x)}; Core ML convolves rank 3 to 5")


def _expect_kernel(node: Node, kernel: Sequence[Any]) -> None:
    """Raise StageError where the attribute says another kernel than the weights have."""
    if not is_fixed(kernel):
        raise node.refused("the size of its kernel is only known as the model runs", FREEZE)
    stated = node.attribute("kernel_shape", list(kernel))
    if list(stated) != list(kernel):
        raise node.refused(f"attribute kernel_shape={stated}, but the weights are {kernel}")


def _padding(window: Window) -> dict[str, Any]:
    if window.same:
        return {"pad_type": window.same}
    if not any(window.pads):
        return {"pad_type": "valid"}
    return {"pad_type": "custom", "pad": list(window.pads)}


def _bias(node: Node) -> dict[str, Any]:
    return {"bias": node.x(2)} if node.is_constant(2) else {}


def _biased(node: Node, made: Operand, *, even_known: bool = False) -> Operand:
    """The result plus a bias that the convolution has not taken itself."""
    if not node.has(2) or (node.is_constant(2) and not even_known):
        return made
    wide = [-1] + [1] * (rank(made) - 2)
    bias = node.x(2)
    bias = bias.reshape(wide) if known(bias) else node.mb.reshape(x=bias, shape=wide)
    return node.mb.add(x=made, y=bias)


TABLE: Mapping[str, Operator] = {"Conv": convolution, "ConvTranspose": transposed}
