"""What is due, of the times that have come."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from crosscast.pipeline.schedule.due import CatchUp, Due, due
from crosscast.pipeline.schedule.times import Times


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 1, 1, hour, minute, tzinfo=UTC)


# Every full hour; somebody looks since 12:30. `decided` is the last time that was dealt with.
@pytest.mark.parametrize(
    ("decided", "now", "catch_up", "expected"),
    [
        (at(12), at(12, 59), "once", Due()),
        (at(12), at(13), "once", Due(run=at(13))),
        (at(12), at(13), "skip", Due(run=at(13))),
        (at(12), at(15, 30), "skip", Due(run=at(15), skipped=[at(13), at(14)])),
        (at(9), at(12, 45), "once", Due(run=at(12), missed=[at(10), at(11), at(12)])),
        (at(9), at(12, 45), "skip", Due(missed=[at(10), at(11), at(12)])),
        (at(11), at(13, 1), "once", Due(run=at(13), missed=[at(12)])),
        (at(11), at(13, 1), "skip", Due(run=at(13), missed=[at(12)])),
        (at(14), at(13, 1), "once", Due()),
    ],
)
def test_what_is_due(decided: datetime, now: datetime, catch_up: CatchUp, expected: Due) -> None:
    times = Times("0 * * * *", "UTC")
    found = due(times, decided=decided, now=now, awake=at(12, 30), catch_up=catch_up)
    assert (found.run, list(found.missed), list(found.skipped)) == (
        expected.run,
        list(expected.missed),
        list(expected.skipped),
    )
