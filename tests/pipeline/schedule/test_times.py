"""Times of cron expressions, over both changes of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosscast.pipeline.schedule.times import Times

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def following(cron: str, zone: str, after: str, number: int) -> list[str]:
    times = islice(Times(cron, zone).after(utc(after)), number)
    return [time.strftime("%m-%d %H:%M") for time in times]


# In 2026 Berlin's clocks go from 02:00 to 03:00 on 29 March (01:00 UTC), and from 03:00 to 02:00
# on 25 October (01:00 UTC).
@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 3 * * *", "2026-03-28T00:00", ["03-28 02:00", "03-29 01:00", "03-30 01:00"]),
        ("30 2 * * *", "2026-03-28T00:00", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("0 3 * * *", "2026-10-24T00:00", ["10-24 01:00", "10-25 02:00", "10-26 02:00"]),
        ("30 2 * * *", "2026-10-24T00:00", ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        ("0 * * * *", "2026-10-24T23:30", ["10-25 00:00", "10-25 01:00", "10-25 02:00"]),
        ("0 * * * *", "2026-03-28T23:30", ["03-29 00:00", "03-29 01:00", "03-29 02:00"]),
    ],
)
def test_the_changes_of_the_clocks(cron: str, after: str, expected: list[str]) -> None:
    assert following(cron, BERLIN, after, 3) == expected


def test_in_the_second_of_two_equal_hours_nothing_comes_again() -> None:
    # 02:10, the second time; 02:30 was there at 00:30 UTC
    assert following("30 2 * * *", BERLIN, "2026-10-25T01:10", 1) == ["10-26 01:30"]
    assert (
        Times("30 2 * * *", BERLIN).between(utc("2026-10-25T00:40"), utc("2026-10-25T02:00")) == []
    )


def test_either_day_is_enough_where_both_are_restricted() -> None:
    assert following("0 0 13 * FRI", "UTC", "2026-02-01T00:00", 4) == [
        *("02-06 00:00", "02-13 00:00", "02-20 00:00", "02-27 00:00")
    ]
    assert following("0 0 13 * FRI", "UTC", "2026-04-01T00:00", 3)[2] == "04-13 00:00"


def test_the_ends_of_a_span() -> None:
    times = Times("0 * * * *", "UTC")
    found = times.between(utc("2026-01-01T00:00"), utc("2026-01-01T03:00"))
    assert [time.hour for time in found] == [1, 2, 3]
    assert times.between(utc("2026-01-02T00:00"), utc("2026-01-01T00:00")) == []


def test_a_long_past_is_looked_at_for_a_year() -> None:
    found = Times("0 0 * * *", "UTC").between(utc("2000-01-01T00:00"), utc("2026-01-01T00:00"))
    assert len(found) == 366


@given(
    cron=st.sampled_from(["*/7 * * * *", "30 2 * * *", "0,30 1-3 * * 6,7", "15 */5 1,31 * *"]),
    zone=st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe"]),
    start=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
)
def test_times_go_up_and_are_those_of_the_next_step(cron: str, zone: str, start: datetime) -> None:
    times, moment = Times(cron, zone), start.replace(tzinfo=UTC)
    first = list(islice(times.after(moment), 3))
    assert moment < first[0] < first[1] < first[2]
    assert times.next(first[0]) == first[1]
    assert times.between(moment, first[2]) == first
    assert times.between(moment, first[0] - timedelta(seconds=1)) == []
