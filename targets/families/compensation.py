"""Rounding of weights to int8 whose errors cancel on what a model reads. Pure.

Weights are rounded one column after the other, and what each rounding adds to the answers is taken
back by the columns that are still in float, as far as these correlate with it in the samples. This
is GPTQ (Frantar et al., ICLR 2023) with its order by the size of what is read. Where inputs are
coloured (sound, photos), most of the error goes where there is nothing to multiply it with
(basic-pitch, weights alone in int8: greatest error 0.26 with weights rounded to nearest, 0.15 with
this; a ShuffleNet: 23 and 32 dB).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from crosscast.targets.families.rounding import LEVELS
from crosscast.targets.families.sensitivity import AT_ONCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

DAMPING = 0.1
"""Of the mean square of what is read, what is added to each: samples are few, and a direction that
they lack is not free. The paper's 1 % follows eight samples so closely that others lose by it (room
to int8's limits on calibration samples and, at worst, on other real ones: PP-OCR's text recognition
14 and -12 dB, with 10 % 10 and 3 dB)."""

BLOCK = 128
"""Columns whose errors are given to the others at once. Changes the time alone."""

LONGEST = 5120
"""Elements of a filter from which on its correlations take minutes and gigabytes."""

ROWS = 4
"""Rows read for each element of a filter, over all samples: correlations of fewer are noise."""

LEAST_ROWS = 4096


Key = TypeVar("Key", bound=Hashable)


class Weighted(Protocol):
    """A constant that is multiplied by. filters: [groups, filters of a group, length]."""

    @property
    def filters(self) -> NDArray[Any]:
        """See above."""
        ...


Filtering = TypeVar("Filtering", bound=Weighted)


class Window(NamedTuple):
    """How a convolution reads: sizes along each spatial axis, and zeros put before and after."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[tuple[int, int]]


def same(sizes: Sequence[int], window: Window, *, upper: bool) -> Window:
    """The window with padding that gives ceil(size / stride) answers; `upper`: the odd one last."""
    pads = []
    spatial = zip(sizes, window.kernel, window.strides, window.dilations, strict=True)
    for size, kernel, stride, dilation in spatial:
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        less = total // 2
        pads.append((less, total - less) if upper else (total - less, less))
    return window._replace(pads=pads)


def patches(value: NDArray[Any], window: Window, most: int) -> NDArray[Any]:
    """What a convolution multiplies: [rows, channels * kernel], at `most` places or all.

    value: [batch, channels, *spatial].
    """
    import numpy as np

    rank = len(window.kernel)
    padded = np.pad(value, [(0, 0), (0, 0), *window.pads])
    spans = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, 2 + rank)))
    steps = [slice(None, None, step) for step in (*window.strides, *window.dilations)]
    spread = np.moveaxis(seen[:, :, *steps], 1, 1 + rank)
    places = _places(int(np.prod(spread.shape[: 1 + rank])), most)
    return spread[np.unravel_index(places, spread.shape[: 1 + rank])].reshape(places.size, -1)


def some(rows: NDArray[Any], most: int) -> NDArray[Any]:
    """`most` of the rows, or all."""
    chosen: NDArray[Any] = rows[_places(len(rows), most)]
    return chosen


def _places(count: int, most: int) -> NDArray[Any]:
    import numpy as np

    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def rows_of(length: int, samples: int) -> int:
    """The rows to take of each sample for filters of so many elements."""
    return -(-max(ROWS * length, LEAST_ROWS) // max(samples, 1))


def gram(rows: NDArray[Any], groups: int) -> NDArray[Any]:
    """How elements of what is read go together: [groups, length, length], float64.

    rows: [rows, groups * length].
    """
    import numpy as np

    grouped = rows.reshape(len(rows), groups, -1).transpose(1, 0, 2).astype(np.float32)
    product: NDArray[Any] = (grouped.transpose(0, 2, 1) @ grouped).astype(np.float64)
    return product


def fitted(
    weights: Mapping[Key, Filtering],
    correlations: Callable[[dict[Key, Filtering]], Mapping[Key, NDArray[Any]]],
) -> Iterator[tuple[Key, NDArray[Any]]]:
    """What is `compensated` of the filters of all weights, AT_ONCE at a time.

    correlations: gives them for some of the weights; a weight that it has none for is left out.
    """
    found = list(weights.items())
    for start in range(0, len(found), AT_ONCE):
        part = dict(found[start : start + AT_ONCE])
        for key, own in correlations(part).items():
            yield key, compensated(part[key].filters, own)


def compensated(filters: NDArray[Any], correlations: NDArray[Any]) -> NDArray[Any]:
    """Weights that a symmetric per-channel int8 quantizer represents exactly, float32.

    filters: [groups, filters of a group, length], float; each filter keeps its scale (its greatest
    magnitude / 127). correlations: as `gram` gives them.
    """
    import numpy as np

    exact = filters.astype(np.float64)
    magnitudes = np.abs(exact)
    peak = magnitudes.max(axis=2, keepdims=True)
    scale = np.maximum(peak, np.finfo(np.float32).tiny) / LEVELS
    order = np.argsort(-np.diagonal(correlations, axis1=1, axis2=2), axis=1, kind="stable")
    columns = order[:, None, :]
    is_end = (magnitudes == peak) & (peak > 0)  # which stay, or the scale would be another
    ends = np.take_along_axis(np.where(is_end, np.copysign(LEVELS, exact), 0.0), columns, 2)
    turned = np.take_along_axis(correlations, order[:, :, None], 1)
    spread = _spread(np.take_along_axis(turned, columns, 2))
    levels = _levels(np.take_along_axis(exact, columns, 2) / scale, ends, spread)
    result = np.empty_like(levels)
    np.put_along_axis(result, columns, levels, 2)
    kept: NDArray[Any] = (result * scale).astype(np.float32)
    return kept


def _spread(correlations: NDArray[Any]) -> NDArray[Any]:
    """The upper Cholesky factor of the inverse: by how much later columns make up for one."""
    import numpy as np

    mean = np.diagonal(correlations, axis1=1, axis2=2).mean(axis=1)[:, None, None]
    # where nothing is read, or what is no number or has no digits left, all directions are alike
    known = np.isfinite(mean) & (mean > np.finfo(np.float32).tiny)
    scaled = np.divide(correlations, mean, out=np.zeros_like(correlations), where=known)
    inverse = np.linalg.inv(scaled + DAMPING * np.eye(correlations.shape[-1]))
    symmetric = (inverse + inverse.transpose(0, 2, 1)) / 2
    return np.linalg.cholesky(symmetric).transpose(0, 2, 1)


def _levels(exact: NDArray[Any], ends: NDArray[Any], spread: NDArray[Any]) -> NDArray[Any]:
    """Integers in the place of [groups, filters, length] steps: `ends` where these are not 0."""
    import numpy as np

    levels = np.empty_like(exact)
    length = exact.shape[2]
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        errors = np.empty_like(exact[:, :, start:end])
        for place in range(start, end):
            wanted, end_of = exact[:, :, place], ends[:, :, place]
            near = np.clip(np.rint(wanted), -LEVELS, LEVELS)
            levels[:, :, place] = np.where(end_of, end_of, near)
            error = (wanted - levels[:, :, place]) / spread[:, None, place, place]
            errors[:, :, place - start] = error
            later = spread[:, None, place, place + 1 : end]
            exact[:, :, place + 1 : end] -= error[:, :, None] * later
        exact[:, :, end:] -= errors @ spread[:, start:end, end:]
    return levels
