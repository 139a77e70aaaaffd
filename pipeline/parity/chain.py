"""An artifact that was quantized is no better than what it was quantized from. Pure.

The noise of int8 hides small errors of a graph: a network that lost a bias, 20 dB from its source,
passes at 17 dB. In float nothing hides them, so what a quantizer starts from is judged as well, by
the limits of its own precision.
"""

from __future__ import annotations

from dataclasses import replace

from crosscast.pipeline.parity.verdict import Verdict

BEFORE = "before quantization"


def chained(verdict: Verdict, *, before: Verdict) -> Verdict:
    """The verdict on an artifact, given that on what its quantizer started from: it fails with it,
    and says what each was.
    """
    if before.status == "failed":
        lines = [f"{BEFORE}: {line}" for line in before.reason.split("\n")]
        own = [verdict.reason] if verdict.status == "failed" else []
        return replace(verdict, status="failed", reason="\n".join([*lines, *own]))
    least = _least_snr(before)
    if verdict.status == "passed" and least is not None:
        return replace(verdict, reason=f"{verdict.reason}; {least:.1f} dB {BEFORE}")
    return verdict


def _least_snr(verdict: Verdict) -> float | None:
    found = [row.numbers.snr_db for row in verdict.worst.values()]
    return min((snr_db for snr_db in found if snr_db is not None), default=None)
