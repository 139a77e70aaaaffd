"""How far a source is from itself where its inputs are rounded: no artifact can be nearer. Pure.

Where a function amplifies rounding (the norm of a signal that is constant divides noise by the
noise's own spread), its outputs hold fewer digits than the limits ask for, in any framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from crosscast.pipeline.parity.metrics import Extent, compare
from crosscast.pipeline.parity.samples import Origin
from crosscast.pipeline.signature import Arrays

ROUNDOFF: Mapping[str, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11}
"""By precision: the greatest relative error of rounding to it (IEEE 754, half a unit in the last
place)."""

HALF_STEP: Mapping[str, float] = {"int8": 2.0**-8, "int4": 2.0**-4}
"""By precision: the greatest error of rounding to it, as a share of the greatest magnitude (half of
the step between so many levels over both signs)."""

MEASURED: Mapping[Origin, tuple[str, ...]] = {
    "adversarial": tuple(ROUNDOFF),
    "streamed": (*ROUNDOFF, *HALF_STEP),
}
"""By origin: the precisions at which a source is run again. A stream feeds the rounding of a step
to all that come after; adversarial rows are not gated in int8 and int4 as it is."""

MARGIN_DB = 20.0
"""Layers round as well as inputs do: the farthest that an honest artifact was seen below what its
source keeps under rounded inputs (wav2vec2 on a constant signal, 41 dB and 20 dB). Sources keep
118 dB and more where they are well conditioned, in float16 60 dB and more. On a stream in int8,
silero-vad keeps 12 to 43 dB of its probability, and its honest artifacts 8 to 42 dB."""


def rounded(arrays: Arrays, *, precision: str, seed: int) -> Arrays:
    """The arrays with random errors in their floats, as large as rounding to `precision` makes."""
    random = np.random.default_rng(seed)
    return {
        name: _noisy(array, precision, random) if array.dtype.kind == "f" else array.copy()
        for name, array in arrays.items()
    }


def noise(outputs: Arrays, again: Arrays) -> dict[str, float]:
    """By float output: the rms of the difference between two answers of a source. Left out is what
    has no number: another shape, other values that are not finite.
    """
    found: dict[str, float] = {}
    for name, wanted in outputs.items():
        if wanted.dtype.kind != "f" or name not in again:
            continue
        if not compare(wanted, again[name], typical=Extent()).problem:
            finite = np.isfinite(wanted)
            found[name] = Extent.of(
                again[name][finite].astype(np.float64) - wanted[finite].astype(np.float64)
            ).rms
    return found


def floor_db(rms: float | None, *, own: Extent, typical: Extent) -> float:
    """SNR in dB (see `metrics`) that a noise leaves of an output; infinite for none."""
    signal = max(own.rms, typical.rms)
    if not rms:
        return math.inf
    return 20.0 * math.log10(signal / rms) if signal else -math.inf


def _noisy(array: np.ndarray, precision: str, random: np.random.Generator) -> np.ndarray:
    errors = random.uniform(-1.0, 1.0, array.shape)
    if precision in ROUNDOFF:
        size = np.abs(array) * ROUNDOFF[precision]
    else:
        size = np.abs(array).max(initial=0.0) * HALF_STEP[precision]
    return np.asarray(array + size * errors, dtype=array.dtype)
