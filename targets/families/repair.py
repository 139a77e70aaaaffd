"""What is done where int8 costs more than its limits allow, and how that is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from crosscast.targets.base import ADVICE, KEPT, SAID, Options
from crosscast.targets.families.sensitivity import Room

NAMED = 3
"""Operators that a line names; the manifest has all."""

FORMS = {"delivered": "so", "int8": "all in int8", "float": "in float"}
"""Sizes that are told, and how a line says it."""


class RepairOptions(Options):
    """What is done where int8 does not do."""

    on_mismatch: Literal["keep-float", "fail"] = Field(
        default="keep-float",
        description="What is done where a trial on calibration samples shows outputs that are not "
        "near the source's. keep-float: what costs most, as measured, stays in float, as little as "
        "will do. fail: nothing, which the gate judges.",
    )


def cost(room: Room, what: str) -> str:
    """Why something stays in float: what it costs alone."""
    return f"{what} alone in int8: the worst sample is {distance(room.worst)}"


def distance(room_db: float) -> str:
    """How far a sample is from the limits."""
    if not math.isfinite(room_db):
        return "not changed" if room_db > 0 else "no longer an answer"
    side = "within" if room_db >= 0 else "beyond"
    return f"{abs(room_db):.1f} dB {side} the limits"


def told(
    *,
    operators: Mapping[str, str],
    total: int,
    weights: Mapping[str, str],
    rooms: tuple[Room, Room],
    sizes: Mapping[str, int],
    trials: int,
    **how: str,
) -> dict[str, Any]:
    """The notes of a file that is not all in int8, or was fitted to samples.

    operators, weights: what stays in float, by name, and why. total: operators that int8 could
    compute. rooms: of the file that is all in int8, and of this one. sizes: bytes of the files in
    "float", in "int8" and as "delivered". trials: models that were made to find it. how: what else
    was done.
    """
    before, after = (room.worst for room in rooms)
    kept = {
        **how,
        "operators": dict(operators),
        "weights": dict(weights),
        "room_db": {"int8": _number(before), "delivered": _number(after)},
        "bytes": dict(sizes),
        "trials": trials,
    }
    return {
        KEPT: {key: value for key, value in kept.items() if value},
        SAID: f"{_done(how, _stays(operators, total, weights))}: the worst calibration sample is "
        f"{distance(after)}, all in int8 {distance(before)}; "
        + ", ".join(f"{_size(sizes[form])} {what}" for form, what in FORMS.items()),
        ADVICE: f"what stays in float was chosen on calibration samples, the worst of which is "
        f"{distance(after)}, and never on those that judge: add calibration samples that are more "
        "like the failing case",
    }


def _stays(operators: Mapping[str, str], total: int, weights: Mapping[str, str]) -> str:
    kinds = ((f"of {total} operators", operators), ("weights", weights))
    parts = [
        f"{len(names)} {kind} in float ({_some(list(names))})" for kind, names in kinds if names
    ]
    return " and ".join(parts)


def _done(how: Mapping[str, str], stays: str) -> str:
    fitted = "biases fitted to samples" if "biases" in how else ""
    return ", ".join(text for text in (fitted, stays) if text)


def _some(names: list[str]) -> str:
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _number(room_db: float) -> float | None:
    return round(room_db, 1) if math.isfinite(room_db) else None
