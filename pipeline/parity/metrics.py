"""How far an output is from the reference: float64, zero-safe, NaN-proof, scale-free. Pure.

For an output tensor of one case, with r the reference, g what the artifact gave, and T what the
output is typically like (`Extent.typical` over the cases that stand for real use):

    snr_db    = 20 log10( max(rms(r), T.rms) / rms(g - r) ), infinite where nothing differs
    max_error = max|g - r| / max(span(r), span(T)), with span = greatest - least value, and at
                least LEAST_SPAN of the greatest magnitude
    cosine    = r . g / (|r| |g|), 1 where both are all zero, 0 where one of them is
    agreement = share of the rows along the last axis with the same argmax
    mismatch  = share of unequal elements (integers, booleans, strings: they have no other number)

T keeps a case with nothing in it (zeros in, zeros out) from being judged at the scale of its own
rounding noise. Cases outside real use do not count in T, so none of them can widen it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_SPAN = 1e-2
"""Of the greatest magnitude: a tensor's span counts for at least this. The noise of a float is a
share of its magnitude, and would be all of the span of what hardly varies."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The comparison of one output of one case.

    problem: what cannot be expressed by a number and always fails (shape, dtype, NaN); the
        numbers are then None, as are those that do not apply to the dtype.
    elements: number of elements compared.
    """

    problem: str = ""
    elements: int = 0
    snr_db: float | None = None
    max_error: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    mismatch: float | None = None


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What the finite values of an array are like; all 0 where there are none."""

    low: float = 0.0
    high: float = 0.0
    rms: float = 0.0
    finite: int = 0

    @property
    def peak(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.low), abs(self.high))

    @classmethod
    def of(cls, array: NDArray[Any]) -> Extent:
        """Of one array; of strings only their number."""
        if array.dtype.kind not in "fiub":
            return cls(finite=array.size)
        values = _finite(array)
        if not values.size:
            return cls()
        return cls(
            low=float(values.min()), high=float(values.max()), rms=_rms(values), finite=values.size
        )

    @classmethod
    def typical(cls, extents: Sequence[Extent]) -> Extent:
        """Of several arrays: ends over all of them, mean of their rms."""
        filled = [extent for extent in extents if extent.finite]
        if not filled:
            return cls()
        return cls(
            low=min(extent.low for extent in filled),
            high=max(extent.high for extent in filled),
            # each divided first: the sum of huge ones would overflow
            rms=sum(extent.rms / len(filled) for extent in filled),
            finite=sum(extent.finite for extent in filled),
        )


def compare(reference: NDArray[Any], got: NDArray[Any], *, typical: Extent) -> Numbers:
    """Compare an output with its reference. No number is ever NaN, and no NaN goes unnoticed."""
    problem = _structure(reference, got) or _non_finite(reference, got)
    if problem:
        return Numbers(problem=problem, elements=reference.size)
    if reference.dtype.kind != "f":
        unequal = float(np.mean(np.asarray(reference != got, bool))) if reference.size else 0.0
        return Numbers(mismatch=unequal, elements=reference.size)
    wanted, given = _finite(reference), _finite(got)
    snr_db, max_error = _distance(wanted, given, typical)
    return Numbers(
        elements=reference.size,
        snr_db=snr_db,
        max_error=max_error,
        cosine=_cosine(wanted, given),
        agreement=_agreement(reference, got),
    )


def _structure(reference: NDArray[Any], got: NDArray[Any]) -> str:
    if got.shape != reference.shape:
        return f"shape {got.shape} where the source gives {reference.shape}"
    if got.dtype != reference.dtype:
        return f"dtype {got.dtype} where the source gives {reference.dtype}"
    return ""


def _non_finite(reference: NDArray[Any], got: NDArray[Any]) -> str:
    if reference.dtype.kind != "f":
        return ""
    bad = np.argwhere(_kinds(reference) != _kinds(got))
    if not len(bad):
        return ""
    place = tuple(int(axis) for axis in bad[0])
    count = f", and {len(bad) - 1} more like it" if len(bad) > 1 else ""
    return f"{got[place]} at {place} where the source gives {reference[place]}{count}"


def _kinds(array: NDArray[Any]) -> NDArray[np.int8]:
    """0 finite, 1 NaN, 2 infinity, 3 negative infinity, for each element."""
    kinds = np.isnan(array) + 2 * np.isposinf(array) + 3 * np.isneginf(array)
    return np.asarray(kinds, dtype=np.int8)


def _finite(array: NDArray[Any]) -> Floats:
    return np.asarray(array[np.isfinite(array)], dtype=np.float64)


def _distance(wanted: Floats, given: Floats, typical: Extent) -> tuple[float, float]:
    """SNR in dB and the relative maximal error."""
    # in units of the greatest magnitude, no difference and no span can overflow
    unit = max(_peak(wanted), _peak(given), typical.peak)
    if unit == 0.0:
        return math.inf, 0.0
    wanted, error = wanted / unit, given / unit - wanted / unit
    own = Extent.of(wanted)
    span = max(own.high - own.low, typical.high / unit - typical.low / unit)
    scale = max(span, LEAST_SPAN * max(own.peak, typical.peak / unit))
    return _decibels(max(own.rms, typical.rms / unit), _rms(error)), _ratio(_peak(error), scale)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 20.0 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf


def _ratio(error: float, scale: float) -> float:
    if error == 0.0:
        return 0.0
    return error / scale if scale else math.inf


def _peak(values: Floats) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _rms(values: Floats) -> float:
    peak = _peak(values)
    return peak * math.sqrt(float(np.mean((values / peak) ** 2))) if peak else 0.0


def _cosine(wanted: Floats, given: Floats) -> float:
    peaks = _peak(wanted), _peak(given)
    if 0.0 in peaks:
        return 1.0 if peaks == (0.0, 0.0) else 0.0
    one, other = wanted / peaks[0], given / peaks[1]
    cosine = float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))
    return min(1.0, max(-1.0, cosine))


def _agreement(reference: NDArray[Any], got: NDArray[Any]) -> float | None:
    if reference.ndim == 0 or reference.shape[-1] < 2 or not reference.size:
        return None
    # NaN would win every argmax
    best = [np.where(np.isnan(array), -np.inf, array).argmax(-1) for array in (reference, got)]
    return float(np.mean(best[0] == best[1]))
