"""Integers that stand for numbers, at run time."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from crosscast.targets.families.mil.ops.arguments import Op, Since, Tensor, unknown

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def along(values: Tensor | None, axis: int | None, x: Tensor) -> Tensor:
    """A scalar, or a vector along an axis of `x`; None is zero."""
    if values is None:
        return torch.zeros(())
    if values.dim() == 0 or axis is None:
        return values.float()
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.float().reshape(shape)


def quantize(
    *,
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """Halves go to the even number; what is beyond the dtype, to its end."""
    if output_dtype not in RANGES:
        raise unknown("quantize", "output_dtype", output_dtype)
    made = (input / along(scale, axis, input)).round() + along(zero_point, axis, input)
    return made.clamp(*RANGES[output_dtype])


def dequantize(
    *, input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    return (input.float() - along(zero_point, axis, input)) * along(scale, axis, input)


OPS: Mapping[str, Op | Since] = {function.__name__: function for function in (quantize, dequantize)}
