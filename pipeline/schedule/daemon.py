"""`crosscast schedule run`: starts jobs at their times, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from crosscast.pipeline.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK
from crosscast.pipeline.schedule.due import Due
from crosscast.pipeline.schedule.jobs import Process
from crosscast.pipeline.schedule.scheduled import Scheduled
from crosscast.pipeline.schedule.state import Name

TICK = timedelta(seconds=30)
"""How long it sleeps at most, so that it sees when the clock was set."""

ASLEEP = timedelta(minutes=2)
"""Without a look: the machine has slept, or its clock was set forward."""


class Timekeeper(Protocol):
    """What `clock.Clock` is. stopping: whether to end."""

    stopping: bool

    def now(self) -> datetime:
        """The time, in UTC."""

    def wait(self, seconds: float) -> None:
        """Let that much time pass, or less."""


class Running(Protocol):
    """What `jobs.Process` is."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def stop(self) -> int:
        """Tell it to stop; gives its exit code."""


class Launch(Protocol):
    """Starts `crosscast WORDS`; its output goes to `log`."""

    def __call__(self, words: Sequence[str], *, log: Path) -> Running:
        """See above."""


class Daemon:
    """Does what is due of some configs."""

    def __init__(
        self, scheduled: Sequence[Scheduled], *, clock: Timekeeper, launch: Launch = Process
    ) -> None:
        self.scheduled, self.clock, self.launch = scheduled, clock, launch
        self.codes: list[int] = []

    def run(self, *, once: bool) -> int:
        """Go on until somebody says stop, or with `once` until nothing is due.

        Gives the exit code: EXIT_INTERRUPTED where a run was stopped; else, with `once`, the worst
        of the runs. Raises ConfigError where another daemon has one of the configs.
        """
        with ExitStack() as stack:
            for it in self.scheduled:
                stack.enter_context(it.book.alone())
            self.awake = self.seen = self.clock.now()
            for it in self.scheduled:
                it.begin(self.awake)
                for name, job in it.jobs.items():
                    it.tell(name, f"next at {it.shown(name, job.times.next(self.awake))}")
            return self._go(once=once)

    def _go(self, *, once: bool) -> int:
        while not self.clock.stopping:
            now = self._look()
            found = self._due(now)
            if found is None and once:
                return _worst(self.codes)
            if found is None:
                self._sleep(now)
            elif not self._work(*found):
                return EXIT_INTERRUPTED
        return EXIT_OK

    def _look(self) -> datetime:
        """The time; notices where it has jumped."""
        now = self.clock.now()
        if now - self.seen > ASLEEP:
            self.awake = now
        self.seen = now
        return now

    def _sleep(self, now: datetime) -> None:
        wait = min(it.next(now) for it in self.scheduled) - now
        self.clock.wait(min(TICK, wait).total_seconds())

    def _due(self, now: datetime) -> tuple[Scheduled, Name, Due] | None:
        """The run that has waited longest."""
        found: list[tuple[datetime, Scheduled, Name, Due]] = []
        for it in self.scheduled:
            for name in it.jobs:
                come = it.due(name, now=now, awake=self.awake)
                if come.run is not None:
                    found.append((come.run, it, name, come))
        return min(found, key=lambda entry: entry[0])[1:] if found else None

    def _work(self, it: Scheduled, name: Name, come: Due) -> bool:
        """Run a job to its end; False where it was stopped."""
        log = it.start(name, come, now=self.clock.now())
        process = self.launch(it.jobs[name].told, log=log)
        while (code := process.poll()) is None and not self.clock.stopping:
            self.clock.wait(TICK.total_seconds())
            self._look()
        ended = process.stop() if code is None else code
        stopped = code is None and ended != EXIT_OK  # it may just have been done
        it.end(name, ended, now=self._look(), stopped=stopped)
        self.codes.append(ended)
        return not stopped


def _worst(codes: Sequence[int]) -> int:
    """The highest-ranked exit code; what a signal has ended counts as a bug."""
    from crosscast.pipeline.runner import worst

    return worst([code if code >= 0 else EXIT_BUG for code in codes])
