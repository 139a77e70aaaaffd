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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_SPAN = 1e-2
"""Of the greatest magnitude: a tensor's span counts for at least this. The noise of a float is a
share of its magnitude, and would be all of the span of what hardly varies."""

Floats = NDArray[np.float64]


class Numbers(NamedTuple):
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


class Extent(NamedTuple):
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
        return cls._rows(values[None])[0] if values.size else cls()

    @classmethod
    def each(cls, arrays: Sequence[NDArray[Any]]) -> list[Extent]:
        """Of each of several arrays of one shape and dtype."""
        rows = np.stack(arrays)
        if rows.size and rows.dtype.kind == "f" and np.isfinite(rows).all():
            return cls._rows(_flat(rows))
        return [cls.of(array) for array in arrays]

    @classmethod
    def _rows(cls, rows: Floats) -> list[Extent]:
        """Of each row of [n, elements], all of them finite and at least one."""
        return cls._scaled(_Scaled.of(rows))

    @classmethod
    def _scaled(cls, rows: _Scaled) -> list[Extent]:
        found = zip(rows.lows.tolist(), rows.highs.tolist(), rows.rms.tolist(), strict=True)
        size = rows.parts.shape[1]
        return [cls(low=low, high=high, rms=rms, finite=size) for low, high, rms in found]

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


class Measured(NamedTuple):
    """What is known of a comparison before it is known what the output is typically like.

    own: of the reference. unit: the greatest magnitude in both; noise and peak, the rms and the
    greatest magnitude of the difference, are in units of it, so that nothing can overflow. None of
    them for what is no float, or has a problem.
    """

    own: Extent
    elements: int
    problem: str = ""
    unit: float = 0.0
    noise: float | None = None
    peak: float = 0.0
    cosine: float | None = None
    agreement: float | None = None
    mismatch: float | None = None

    def numbers(self, typical: Extent) -> Numbers:
        """The numbers of an output that is typically like this."""
        snr_db, max_error = self._distance(typical)
        return Numbers(
            problem=self.problem,
            elements=self.elements,
            snr_db=snr_db,
            max_error=max_error,
            cosine=self.cosine,
            agreement=self.agreement,
            mismatch=self.mismatch,
        )

    def _distance(self, typical: Extent) -> tuple[float | None, float | None]:
        """SNR in dB and the relative maximal error."""
        if self.noise is None:
            return None, None
        unit = max(self.unit, typical.peak)
        if unit == 0.0:
            return math.inf, 0.0
        own, part = self.own, self.unit / unit
        span = max(own.high / unit - own.low / unit, typical.high / unit - typical.low / unit)
        scale = max(span, LEAST_SPAN * max(own.peak, typical.peak) / unit)
        signal = max(own.rms / unit, typical.rms / unit)
        return _decibels(signal, self.noise * part), _ratio(self.peak * part, scale)


def compare(reference: NDArray[Any], got: NDArray[Any], *, typical: Extent) -> Numbers:
    """Compare an output with its reference. No number is ever NaN, and no NaN goes unnoticed."""
    return measured([reference], [got])[0].numbers(typical)


def measured(references: Sequence[NDArray[Any]], given: Sequence[NDArray[Any]]) -> list[Measured]:
    """Each output beside its reference. References of one shape and dtype are measured at once."""
    alike = {(array.shape, array.dtype) for array in (*references, *given)}
    if len(alike) == 1:
        wanted, got = np.stack(references), np.stack(given)
        if wanted.dtype.kind != "f":
            return _unequal(wanted, got)
        if wanted.size and np.isfinite(wanted).all() and np.isfinite(got).all():
            return _distances(_flat(wanted), _flat(got), _agreement(wanted, got))
    return [_alone(one, other) for one, other in zip(references, given, strict=True)]


def _alone(reference: NDArray[Any], got: NDArray[Any]) -> Measured:
    """The general case: anything may be wrong with `got`, and values may not be finite."""
    problem = _structure(reference, got) or _non_finite(reference, got)
    own, elements = Extent.of(reference), reference.size
    if problem:
        return Measured(own=own, elements=elements, problem=problem)
    if reference.dtype.kind != "f":
        return _unequal(reference[None], got[None])[0]
    ranked = (np.where(np.isnan(array), -np.inf, array)[None] for array in (reference, got))
    shares = _agreement(*ranked)
    wanted, given = _finite(reference), _finite(got)
    if not wanted.size:
        return Measured(own=own, elements=elements, noise=0.0, cosine=1.0, agreement=shares[0])
    return _distances(wanted[None], given[None], shares)[0]._replace(elements=elements)


def _unequal(wanted: NDArray[Any], given: NDArray[Any]) -> list[Measured]:
    """Of integers, booleans and strings, along the first axis."""
    size = math.prod(wanted.shape[1:])
    wrong = np.asarray(wanted != given, bool).reshape(len(wanted), -1).sum(1)
    return [
        Measured(own=Extent.of(row), elements=size, mismatch=int(count) / max(size, 1))
        for row, count in zip(wanted, wrong, strict=True)
    ]


class _Scaled(NamedTuple):
    """Rows of finite floats, [n, elements], as parts of their greatest magnitudes, so that no
    square overflows. lows, highs, peaks: of each row. squares: the sum of the parts' squares.
    """

    lows: Floats
    highs: Floats
    peaks: Floats
    parts: Floats
    squares: Floats

    @classmethod
    def of(cls, rows: Floats) -> _Scaled:
        lows, highs = rows.min(1), rows.max(1)
        peaks = np.maximum(highs, -lows)
        parts = rows / np.where(peaks, peaks, 1.0)[:, None]
        squares = np.einsum("ij,ij->i", parts, parts)
        return cls(lows=lows, highs=highs, peaks=peaks, parts=parts, squares=squares)

    @property
    def rms(self) -> Floats:
        """Of each row."""
        return np.asarray(self.peaks * np.sqrt(self.squares / self.parts.shape[1]))


def _distances(wanted: Floats, given: Floats, shares: Sequence[float | None]) -> list[Measured]:
    """Of finite floats, [n, elements] each, row by row. shares: the agreement of each row."""
    one, other = _Scaled.of(wanted), _Scaled.of(given)
    unit = np.maximum(one.peaks, other.peaks)
    scale = np.where(unit, unit, 1.0)[:, None]
    error = _Scaled.of(given / scale - wanted / scale)
    found = zip(
        Extent._scaled(one), unit.tolist(), error.rms.tolist(), error.peaks.tolist(),
        _cosines(one, other).tolist(), shares, strict=True,
    )  # fmt: skip
    return [
        Measured(
            own=own, elements=wanted.shape[1], unit=top, noise=noise, peak=peak, cosine=cosine,
            agreement=agreement,
        )
        for own, top, noise, peak, cosine, agreement in found
    ]  # fmt: skip


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


def _flat(rows: NDArray[Any]) -> Floats:
    return np.asarray(rows.reshape(len(rows), -1), dtype=np.float64)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 20.0 * (math.log10(signal) - math.log10(noise)) if signal else -math.inf


def _ratio(error: float, scale: float) -> float:
    if error == 0.0:
        return 0.0
    return error / scale if scale else math.inf


def _cosines(wanted: _Scaled, given: _Scaled) -> Floats:
    """1 where both are all zero, 0 where one of them is."""
    dots = np.einsum("ij,ij->i", wanted.parts, given.parts)
    lengths = wanted.squares * given.squares
    cosines = np.clip(dots / np.sqrt(np.where(lengths, lengths, 1.0)), -1.0, 1.0)
    return np.where((wanted.peaks == 0) & (given.peaks == 0), 1.0, cosines)


def _agreement(wanted: NDArray[Any], given: NDArray[Any]) -> list[float | None]:
    """Of each entry along the first axis: the share of rows along the last one that agree. NaN
    would win every argmax: neither has one.
    """
    if wanted.ndim < 2 or wanted.shape[-1] < 2 or not wanted.size:
        return [None] * len(wanted)
    same = wanted.argmax(-1) == given.argmax(-1)
    shares: list[float | None] = list(_flat(same).mean(1).tolist())
    return shares
