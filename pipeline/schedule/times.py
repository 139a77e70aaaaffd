"""When a cron expression comes, in its time zone. Times in and out are in UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cronsim import CronSim

LOOKED_BACK = timedelta(days=366)
"""How far times are looked for in the past: what comes once a year is found, and an expression of
every minute is gone through in seconds.
"""


@dataclass(frozen=True)
class Times:
    """A cron expression in a time zone.

    At the changes of the clocks it does what Debian's cron does: a set time that is left out comes
    as soon as there is time again, one that is there twice comes the first time.
    """

    cron: str
    zone: str

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The times after a moment, first one first."""
        from cronsim import CronSim

        zone = UTC if self.zone == "UTC" else ZoneInfo(self.zone)
        # In the second of two equal hours it begins with times of the first one.
        found = (time.astimezone(UTC) for time in CronSim(self.cron, moment.astimezone(zone)))
        return (time for time in found if time > moment)

    def next(self, moment: datetime) -> datetime:
        """The first time after a moment."""
        return next(self.after(moment))

    def between(self, moment: datetime, until: datetime) -> list[datetime]:
        """The times after a moment, up to another one and with it."""
        start = max(moment, until - LOOKED_BACK)
        return list(takewhile(lambda time: time <= until, self.after(start)))

    def fields(self) -> CronSim:
        """The sets of numbers that the fields stand for."""
        from cronsim import CronSim

        return CronSim(self.cron, datetime(2000, 1, 1, tzinfo=UTC))


def local(moment: datetime, zone: str) -> str:
    """A time for people: `2026-03-29 03:00 CEST`."""
    return moment.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M %Z")


def stamped(moment: datetime) -> str:
    """A time to the second, for logs."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
