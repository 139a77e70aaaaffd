"""Quantization, as the arithmetic that it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import cast, known, rank, shape

RANGES = {
    "uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767),
}  # fmt: skip


def quantize(node: Node) -> Operand:
    """round(x / scale) + zero point, in the limits of the dtype."""
    node.only("block_size", 0)
    node.only("output_dtype", 0)
    node.only("precision", 0)
    node.ignore("saturate")
    x, scale = node.x(0), _along(node, node.x(1))
    dtype = node.dtype(2) if node.has(2) else "uint8"
    if dtype not in RANGES:
        raise node.refused(f"to {dtype} is not supported")
    made = node.mb.round(x=node.mb.real_div(x=x, y=scale))
    if node.has(2):
        made = node.mb.add(x=made, y=_float(node, _along(node, node.x(2))))
    low, high = RANGES[dtype]
    made = node.mb.clip(x=made, alpha=np.float32(low), beta=np.float32(high))
    return node.mb.cast(x=made, dtype="int32")


def dequantize(node: Node) -> Operand:
    """(x - zero point) · scale."""
    node.only("block_size", 0)
    node.only("output_dtype", 0)
    if node.dtype(0) not in (*RANGES, "int32"):
        raise node.refused(f"of {node.dtype(0)} is not supported")
    x, scale = node.x(0), _along(node, node.x(1))
    if node.has(2):
        x = node.mb.sub(x=x, y=_along(node, node.x(2)))
    return node.mb.mul(x=_float(node, x), y=scale)


def _along(node: Node, value: Operand) -> Operand:
    """A number for each element of an axis, so that it is broadcast along the others."""
    axis, dims = node.attribute("axis", 1), rank(node.x(0))
    if rank(value) > 1:
        raise node.refused("block by block is not supported")
    if rank(value) == 0 or shape(value)[0] == 1:
        return value if rank(value) == 0 or not known(value) else value[0]
    axis = axis + dims if axis < 0 else axis
    wide = [-1] + [1] * (dims - 1 - axis)
    return value.reshape(wide) if known(value) else node.mb.reshape(x=value, shape=wide)


def _float(node: Node, value: Operand) -> Operand:
    return value.astype(np.float32) if known(value) else cast(node, value, "fp32")


TABLE: Mapping[str, Operator] = {
    "DequantizeLinear": dequantize,
    "QuantizeLinear": quantize,
}
