"""How far an artifact may be from its source, by the precision that it was delivered in. Pure.

All limits are scale-free; `metrics` defines the numbers they apply to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from crosscast.pipeline.parity.conditioning import MARGIN_DB
from crosscast.pipeline.parity.metrics import Numbers
from crosscast.pipeline.parity.samples import Origin


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits for every output of every gated case.

    min_snr_db, max_error: for float outputs.
    max_mismatch: for integer, boolean and string outputs, over all gated cases of an output
        together.
    reason: why these are the limits.
    override: the user's reason for having changed one; empty where the defaults hold.
    """

    min_snr_db: float
    max_error: float
    max_mismatch: float
    reason: str
    override: str = ""


TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(
        min_snr_db=80.0,
        max_error=1e-3,
        max_mismatch=1e-3,
        reason=(
            "honest float32 conversions only reorder sums: 100 dB and more is typical, the worst"
            " relative error seen is 1.5e-5; integers differ only where two candidates nearly tie"
        ),
    ),
    "fp16": Tolerance(
        min_snr_db=33.0,
        max_error=5e-2,
        max_mismatch=1e-2,
        reason=(
            "float16 keeps 11 bits: 55 to 70 dB is typical; the worst honest relative error seen is"
            " 1.5e-2 (36 dB, a deep network with random weights), the best of a wrong graph"
            " 21 dB (an image shifted by one pixel)"
        ),
    ),
    "int8": Tolerance(
        min_snr_db=17.0,
        max_error=0.2,
        max_mismatch=5e-2,
        reason=(
            "20 to 37 dB is typical on real inputs. The limit lies midway between the worst honest"
            " sample measured (EfficientNet-Lite0 on a dark photo, 20.8 dB) and the least wrong"
            " graph's worst (the same photos shifted by one pixel, 13.1 dB). Cases that are not"
            " real lie outside the calibrated ranges, where saturation is by design: of those only"
            " shape, dtype and finiteness are gated, unless there are no real ones"
        ),
    ),
    "int4": Tolerance(
        min_snr_db=10.0,
        max_error=0.3,
        max_mismatch=1e-1,
        reason=(
            "weights of 4 bits: 12 to 22 dB on real inputs; 12.6 dB in the worst sample measured by"
            " blocks of 32 (MiniLM), 10.2 dB in palettes (MiniLM); wrong graphs (nibbles"
            " swapped, scales in another order or a quarter too large, rows permuted) reach 7.1 dB"
            " at most where one of all or the last layer is wrong, and the limit lies midway. Cases"
            " that are not real are gated as for int8: rows that are all alike drown in the same"
            " noise (10.2 dB)"
        ),
    ),
}
"""By delivered precision."""


def tolerance(precision: str, overrides: Mapping[str, Any]) -> Tolerance:
    """The limits for a precision, with the user's own in place of the defaults.

    overrides: limits by name, None for the default, and the `reason` for them.
    """
    default = TOLERANCES[precision]
    limits = {
        key: value for key, value in overrides.items() if key != "reason" and value is not None
    }
    return replace(default, **limits, override=overrides["reason"]) if limits else default


def coarsest(*precisions: str) -> str:
    """The precision with the widest limits; empty ones do not count."""
    return min(filter(None, precisions), key=lambda held: TOLERANCES[held].min_snr_db)


def excess(numbers: Numbers, limits: Tolerance) -> str:
    """What is out of the limits; empty if nothing is. Written so that NaN is out of any."""
    if numbers.problem:
        return numbers.problem
    if numbers.mismatch is not None:
        return _over("mismatch", numbers.mismatch, limits.max_mismatch)
    if numbers.snr_db is None or numbers.max_error is None:
        return "nothing was measured"
    if not numbers.snr_db >= limits.min_snr_db:
        return f"snr_db is {numbers.snr_db:.1f}, the limit is {limits.min_snr_db:g}"
    return _over("max_error", numbers.max_error, limits.max_error)


def _over(metric: str, value: float, limit: float) -> str:
    return "" if value <= limit else f"{metric} is {value:.3g}, the limit is {limit:g}"


def is_gated(
    origin: Origin, *, precision: str, has_real: bool, floor_db: float, limits: Tolerance
) -> bool:
    """Whether the numbers of an output of a case are held to the limits.

    Why not, for integers, is in their limits' reason; for others, the source itself keeps too
    little of that output under rounded inputs (`conditioning.floor_db`).
    """
    if floor_db < limits.min_snr_db + MARGIN_DB:
        return False
    if precision not in ("int8", "int4"):
        return True
    # a stream's inputs are the real ones where there are any
    return origin in (("real", "swept", "streamed") if has_real else ("synthetic", "streamed"))
