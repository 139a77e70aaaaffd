"""Rounding of weights to int8 that keeps their sums.

Rounding each weight to nearest leaves every filter with a small sum of errors, which a flat patch
of the input multiplies by its own value: the filter gains an offset. Depthwise filters, whose
large weights cancel, suffer most (EfficientNet-Lite0, one dark photo: 13 dB from one layer, 31 dB
with the sums kept). The idea is that of SQuant (Guo et al., ICLR 2022): turn a few roundings to
the other neighbour, those that were closest to it, first in each kernel and then in each filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = 127
"""Greatest int8 magnitude of symmetric weights; -128 is not used."""


def keep_sums(weights: NDArray[Any], *, axis: int, kernel: int) -> NDArray[Any]:
    """Weights that a symmetric per-channel int8 quantizer represents exactly.

    weights: float, any rank; `axis` is that of the output channels, each with a scale of its own
    (its greatest magnitude / 127, which stays as it was).
    kernel: size of the groups along the remaining axes, flattened in order, whose sums are kept
    before those of whole filters: height * width of a convolution laid out [out, in, h, w]; 1
    keeps only the sums of filters.
    """
    import numpy as np

    moved = np.moveaxis(weights, axis, 0)
    filters = moved.reshape(moved.shape[0], -1).astype(np.float64)
    scale = np.maximum(np.abs(filters).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    exact = filters / scale * LEVELS
    levels = np.rint(exact)
    if kernel > 1:
        grouped = _balanced(levels.reshape(-1, kernel), exact.reshape(-1, kernel))
        levels = grouped.reshape(exact.shape)
    levels = np.clip(_balanced(levels, exact), -LEVELS, LEVELS)
    kept = (levels * scale / LEVELS).reshape(moved.shape)
    return np.ascontiguousarray(np.moveaxis(kept, 0, axis)).astype(weights.dtype)


def _balanced(levels: NDArray[Any], exact: NDArray[Any]) -> NDArray[Any]:
    """Move the fewest levels of each row by one so that the row's errors sum to at most a half."""
    import numpy as np

    errors: NDArray[Any] = levels - exact
    surplus = errors.sum(axis=1, keepdims=True)
    direction = np.sign(surplus)
    ranks = np.argsort(np.argsort(-direction * errors, axis=1, kind="stable"), axis=1)
    moved: NDArray[Any] = levels - direction * (ranks < np.rint(np.abs(surplus)))
    return moved
