"""What is to be done at a moment, of the times that have come since the last look. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from crosscast.pipeline.schedule.times import Times

CatchUp = Literal["once", "skip"]


@dataclass(frozen=True, kw_only=True)
class Due:
    """What has come. run: the time that a run is for; None where none is due.

    missed: came while nothing ran. skipped: came while another run kept it waiting; one run does
    for all of these.
    """

    run: datetime | None = None
    missed: Sequence[datetime] = ()
    skipped: Sequence[datetime] = ()


def due(
    times: Times, *, decided: datetime, now: datetime, awake: datetime, catch_up: CatchUp
) -> Due:
    """What has come after `decided`, the last time that was dealt with.

    awake: since when somebody has been looking without a break.
    """
    come = times.between(decided, now)
    missed = [time for time in come if time < awake]
    waiting = come[len(missed) :]
    if waiting:
        return Due(run=waiting[-1], missed=missed, skipped=waiting[:-1])
    return Due(run=missed[-1] if missed and catch_up == "once" else None, missed=missed)
