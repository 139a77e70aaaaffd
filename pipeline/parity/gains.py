"""Whether quantized weights are as large as the floats that they stand for. Pure.

Rounding errors have either sign, and leave the size of a channel of weights as it was. A scale that
is wrong changes it by a factor, in a file that is otherwise right, and where the layer matters
little that drowns in the outputs' noise. So each channel's gain is taken: what its numbers are as a
multiple of the floats', by least squares, <q, w> / <w, w>.

Weights are found again by their numbers, since names and layouts change on the way: a float of as
many elements, transposed or not, that points in the same direction. What has none (it was joined,
split or folded into another) is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 64
"""Elements of a weight that is looked for: fewer look alike by chance."""

ALIKE = 0.9
"""The least cosine between a weight and the same one quantized (MiniLM in 4 bits: 0.996)."""

LIMIT = 0.1
"""How far a gain may be from 1: five times what four bits do to it (MiniLM: 0.981 to 1.009, of 38
weights; in int8 0.997 to 1.003), and less than half of what a scale of a quarter too much does."""

PROBED = 1024
"""Elements of a weight, evenly spread, by which it is looked for."""


@dataclass(frozen=True)
class Weight:
    """The numbers that a constant stands for.

    values: real numbers. steps: what each is rounded to, of a shape that broadcasts to that of
        `values`; None for floats. Channels that have a step each lie along the first axis along
        which there are several.
    """

    name: str
    values: NDArray[Any]
    steps: NDArray[Any] | None = None

    @cached_property
    def forms(self) -> tuple[NDArray[Any], ...]:
        """The numbers as they are, and with the last two axes exchanged."""
        import numpy as np

        if self.values.ndim < 2:
            return (self.values,)
        return self.values, np.swapaxes(self.values, -1, -2)


def problems(quantized: Iterable[Weight], floats: Iterable[Weight]) -> Iterator[str]:
    """What is wrong with the sizes of quantized weights, one line each.

    floats: of what they were quantized from.
    """
    known = _Known(floats)
    for weight in quantized:
        if weight.steps is None or weight.values.size < LEAST:
            continue
        found = [_wrong(weight, original) for original in known.alike(weight)]
        if found and all(found):
            yield min(found, key=len)


class _Known:
    """Weights by their sizes, each with probes of its forms."""

    def __init__(self, weights: Iterable[Weight]) -> None:
        import numpy as np

        self._forms: dict[int, list[NDArray[Any]]] = {}
        for weight in weights:
            if weight.values.size >= LEAST:
                self._forms.setdefault(weight.values.size, []).extend(weight.forms)
        self._probes = {
            size: np.stack([_probe(form) for form in forms]) for size, forms in self._forms.items()
        }

    def alike(self, weight: Weight) -> Iterator[NDArray[Any]]:
        """The weights that it may stand for, in its shape."""
        import numpy as np

        size = weight.values.size
        if size not in self._forms:
            return
        cosines = self._probes[size] @ _probe(weight.values)
        for place in np.flatnonzero(cosines >= ALIKE):
            yield self._forms[size][place].reshape(weight.values.shape)


def _probe(values: NDArray[Any]) -> NDArray[Any]:
    """Some of the numbers, as a vector of length 1; without direction where they are all zero."""
    import numpy as np

    size = values.size
    places = np.unique(np.linspace(0, size - 1, min(size, PROBED)).astype(np.int64))
    chosen = np.asarray(values[np.unravel_index(places, values.shape)], np.float64)
    length = np.linalg.norm(chosen)
    return np.asarray(chosen / (length or 1.0), np.float32)


def _wrong(weight: Weight, original: NDArray[Any]) -> str:
    """What is said of the channel whose gain is the worst; empty where all are right.

    A channel that is no further off than a step anywhere is what rounding made of it, such as one
    of small numbers that shares its scale with larger ones. Numbers below float32's normal ones
    have few bits, or are zero to a runtime: a channel of such has no size that could be kept.
    """
    import numpy as np

    assert weight.steps is not None
    values, wanted = (np.asarray(it, np.float64) for it in (weight.values, original))
    wide = [axis for axis, size in enumerate(weight.steps.shape) if size > 1]
    others = tuple(axis for axis in range(values.ndim) if axis not in wide[:1])
    power = (wanted**2).sum(others)
    gains = (values * wanted).sum(others) / np.where(power, power, 1.0)
    is_far = (np.abs(values - wanted) > weight.steps).any(others)
    is_normal = np.abs(wanted).max(others) >= np.finfo(np.float32).tiny
    off = np.where(is_far & is_normal, np.abs(gains - 1), 0.0)
    bad = np.flatnonzero(off > LIMIT)
    if not bad.size:
        return ""
    worst = float(gains.flat[off.argmax()])
    return (
        f"'{weight.name}' is {worst:.2f} times as large as the weight that it was quantized from"
        f"{f', in {bad.size} of {gains.size} channels' if gains.size > 1 else ''}"
    )
