"""Activations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from crosscast.targets.families.mil.ops.arguments import Op, Since, Tensor, unknown


def _channels(values: Tensor, x: Tensor) -> Tensor:
    """A vector along the second axis of `x`."""
    return values.reshape(-1, *[1] * (x.dim() - 2))


def clamped_relu(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


def elu(*, x: Tensor, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


def gelu(*, x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return functional.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return functional.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise unknown("gelu", "mode", mode)


def leaky_relu(*, x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


def linear_activation(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def prelu(*, x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, _channels(alpha, x) * x)


def relu(*, x: Tensor) -> Tensor:
    return x.relu()


def relu6(*, x: Tensor) -> Tensor:
    return x.clamp(0, 6)


def scaled_tanh(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def sigmoid(*, x: Tensor) -> Tensor:
    return x.sigmoid()


def sigmoid_hard(*, x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def silu(*, x: Tensor) -> Tensor:
    return functional.silu(x)


def softplus(*, x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros(()))


def softplus_parametric(*, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return _channels(alpha, x) * softplus(x=_channels(beta, x) * x)


def softsign(*, x: Tensor) -> Tensor:
    return functional.softsign(x)


def thresholded_relu(*, x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, 0)


def softmax(*, x: Tensor, axis: int = -1) -> Tensor:
    return x.softmax(axis)


OPS: Mapping[str, Op | Since] = {
    function.__name__: function
    for function in (
        clamped_relu, elu, gelu, leaky_relu, linear_activation, prelu, relu, relu6, scaled_tanh,
        sigmoid, sigmoid_hard, silu, softplus, softplus_parametric, softsign, thresholded_relu,
        softmax,
    )
}  # fmt: skip
