"""How much of a model's answers int8 may cost. Pure.

Quantizers hold a quantized model against the float one on calibration samples, never on those that
parity judges by. Where a model has room to int8's limits, nothing is changed. Where it has not,
`search` finds what stays in float.

A softmax or sigmoid at the end hides what int8 costs: a sure answer stays sure whatever is done to
it, and the next sample is an unsure one. So what goes into these is judged, too, by what its error
would do to an undecided answer, where they are steepest (PP-OCR's direction classifier: 42 dB on
the samples that it was calibrated on, 7 dB foretold, 7 dB on others).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosscast.pipeline.parity.metrics import Extent
    from crosscast.pipeline.parity.tolerance import Tolerance

Squash = Literal["", "softmax", "sigmoid"]

Sample = TypeVar("Sample")

MARGIN_DB = 3.0
"""What the typical sample must have more than the hardest."""

LEVELS = (0.0, 3.0, 6.0)
"""Room of the hardest sample: none but enough, some, and ample room."""

SAMPLES = 64
"""Calibration samples that a quantized model is tried on, spread over all."""

TOGETHER = 256 * 1024**2
"""Bytes of float outputs that are kept to compare with."""

AT_ONCE = 16
"""Tensors that are read in one run: all of a large network's would not fit into memory."""

HARDEST = 2
"""Samples that the cost of each part is measured on: those that the whole costs most."""

UNSURE = 8.0
"""Magnitude of what a sigmoid reads above which its answer is sure."""


class Room(NamedTuple):
    """How far the samples are within int8's limits, in dB; negative where they are beyond."""

    samples: Sequence[float]

    def reaches(self, level: float) -> bool:
        """Whether the hardest sample has so much room, and the typical one MARGIN_DB more."""
        return self.worst >= level and median(self.samples) >= level + MARGIN_DB

    @property
    def worst(self) -> float:
        """The room of the hardest sample."""
        return min(self.samples)

    @property
    def level(self) -> float:
        """The highest of LEVELS that is reached; minus infinity for none."""
        return max((level for level in LEVELS if self.reaches(level)), default=-math.inf)

    @property
    def cost(self) -> float:
        """A number that grows with what is lost, and adds up where it has several causes."""
        return math.fsum(10 ** (-min(room, 1e3) / 10) for room in self.samples)

    def hardest(self) -> list[int]:
        """The places of the samples with least room."""
        places = range(len(self.samples))
        return sorted(sorted(places, key=lambda place: self.samples[place])[:HARDEST])


def limits_of(parity: Mapping[str, Any]) -> Tolerance:
    """The limits of int8, with a target's own in their place: those that the gate will ask for."""
    from crosscast.pipeline.parity.tolerance import tolerance

    return tolerance("int8", parity)


def room_db(
    reference: NDArray[Any],
    given: NDArray[Any],
    *,
    typical: Extent,
    limits: Tolerance,
    squash: Squash = "",
) -> float:
    """How far a tensor is within the limits.

    squash: what reads the tensor, for its error to be judged where that is steepest.
    """
    from crosscast.pipeline.parity.metrics import compare

    if squash:
        return _foretold(reference, given, squash, limits)
    numbers = compare(reference, given, typical=typical)
    if numbers.problem:
        return -math.inf
    if numbers.mismatch is not None:
        return _below(numbers.mismatch, limits.max_mismatch)
    if numbers.snr_db is None or numbers.max_error is None:
        return math.inf
    return min(numbers.snr_db - limits.min_snr_db, _below(numbers.max_error, limits.max_error))


def _below(value: float, limit: float) -> float:
    return 20 * math.log10(limit / value) if value else math.inf


def _foretold(
    reference: NDArray[Any], given: NDArray[Any], squash: Squash, limits: Tolerance
) -> float:
    """The room of undecided answers whose input has the error of these.

    A sigmoid's slope is 1/4 at its answer of 1/2. A softmax between two classes is a sigmoid of
    their difference, whose error is that of one by the square root of 2.
    """
    import numpy as np

    if reference.shape != given.shape or not np.isfinite(given).all():
        return -math.inf
    error = given.astype(np.float64) - reference.astype(np.float64)
    if squash == "sigmoid":
        answers = np.abs(error[np.abs(reference) < UNSURE]) / 4
    else:
        centred = error - error.mean(axis=-1, keepdims=True)
        spread = (centred * centred).sum(axis=-1) / max(centred.shape[-1] - 1, 1)
        answers = np.sqrt(2 * spread).ravel() / 4
    if not answers.size:
        return math.inf
    noise = _below(float(np.sqrt(np.mean(answers * answers))), 0.5) - limits.min_snr_db
    return min(noise, _below(float(answers.max()), limits.max_error))


class Standard:
    """What a float model answers to samples, to hold others against.

    wanted: the watched tensors of each sample. squashes: what reads each of them.
    limits: int8's own where none are given.
    """

    def __init__(
        self,
        wanted: Sequence[Sequence[NDArray[Any]]],
        squashes: Sequence[Squash],
        limits: Tolerance | None = None,
    ) -> None:
        from crosscast.pipeline.parity.metrics import Extent

        self._wanted, self._squashes = wanted, squashes
        self._limits = limits or limits_of({})
        self._typical = [
            Extent.typical([Extent.of(values[index]) for values in wanted])
            for index in range(len(squashes))
        ]

    def room_db(self, place: int, values: Sequence[NDArray[Any]]) -> float:
        """The room of the watched tensors of the sample at `place`."""
        columns = zip(self._wanted[place], values, self._typical, self._squashes, strict=True)
        return min(
            room_db(wanted, given, typical=typical, limits=self._limits, squash=squash)
            for wanted, given, typical, squash in columns
        )


def held(answers: Iterable[Sequence[NDArray[Any]]]) -> list[Sequence[NDArray[Any]]]:
    """As many samples' answers as memory is spent on, one at least."""
    kept: list[Sequence[NDArray[Any]]] = []
    size = 0
    for values in answers:
        kept.append(values)
        size += sum(value.nbytes for value in values)
        if size > TOGETHER:
            break
    return kept


def spread(count: int) -> list[int]:
    """The places of the samples to try, of so many."""
    if count <= SAMPLES:
        return list(range(count))
    return [index * count // SAMPLES for index in range(SAMPLES)]


def at(samples: Iterable[Sample], places: Collection[int]) -> Iterator[Sample]:
    """The samples at some places, in their order."""
    wanted = set(places)
    return (sample for place, sample in enumerate(samples) if place in wanted)


def half(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Every other sample: ranges measured on these are tried on all, so that what the others have
    beyond them counts, as what comes later will.
    """
    return (sample for place, sample in enumerate(samples) if place % 2 == 0)
