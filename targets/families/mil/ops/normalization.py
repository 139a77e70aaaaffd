"""Normalizations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from crosscast.targets.families.mil.ops.arguments import Ints, Op, Since, Tensor


def batch_norm(
    *,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


def instance_norm(
    *, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Over the spatial axes, with the variance of the whole (no correction)."""
    axes = list(range(2, x.dim()))
    made = _normalized(x, axes, epsilon)
    along = [-1, *[1] * len(axes)]
    made = made if gamma is None else made * gamma.reshape(along)
    return made if beta is None else made + beta.reshape(along)


def l2_norm(*, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Over the last three axes."""
    return x / (x.square().sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()


def layer_norm(
    *,
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """gamma, beta: of the shape of the normalized axes, in their order."""
    chosen = sorted(axis % x.dim() for axis in axes or range(x.dim()))
    made = _normalized(x, chosen, epsilon)
    along = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    made = made if gamma is None else made * gamma.reshape(along)
    return made if beta is None else made + beta.reshape(along)


def local_response_norm(
    *, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Over `size` neighbouring channels; an even number has one more before.

    Channels are axis 1, but axis 0 at rank 3, which Core ML takes as channels, height and width:
    so coremltools' tests have it, whatever the operator's documentation says.
    """
    channels = 0 if x.dim() == 3 else 1
    squares = x.square().movedim(channels, -1)
    windows = functional.pad(squares, (size // 2, (size - 1) // 2)).unfold(-1, size, 1)
    return x / (k + alpha / size * windows.sum(-1).movedim(-1, channels)).pow(beta)


def _normalized(x: Tensor, axes: Ints, epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)


OPS: Mapping[str, Op | Since] = {
    function.__name__: function
    for function in (batch_norm, instance_norm, l2_norm, layer_norm, local_response_norm)
}
