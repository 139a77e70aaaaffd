"""Matrix products and attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from crosscast.targets.families.mil.ops.arguments import Op, Since, Tensor, Tensors


def linear(*, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(*_alike(x, weight, bias))


def matmul(*, x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Vectors are not transposed."""
    left, right = _alike(x, y)
    left = left.mT if transpose_x and x.dim() > 1 else left
    right = right.mT if transpose_y and y.dim() > 1 else right
    return torch.matmul(left, right)


def einsum(*, values: Tensors, equation: str) -> Tensor:
    return torch.einsum(equation.replace(" ", ""), *values)


def scaled_dot_product_attention(
    *, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _alike(*factors: Tensor) -> list[Tensor]:
    """Factors, or None, that are all floats where one is: from iOS 17 on they may differ."""
    given = [factor for factor in factors if factor is not None]
    if not any(factor.is_floating_point() for factor in given):
        return list(factors)
    return [factor if factor is None else factor.float() for factor in factors]


OPS: Mapping[str, Op | Since] = {
    function.__name__: function
    for function in (linear, matmul, einsum, scaled_dot_product_attention)
}
