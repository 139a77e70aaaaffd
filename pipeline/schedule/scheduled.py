"""A config with a schedule, its jobs, and what has become of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import EXIT_INTERRUPTED, EXIT_OK, ConfigError
from crosscast.pipeline.release import hooks
from crosscast.pipeline.schedule import jobs
from crosscast.pipeline.schedule.due import Due, due
from crosscast.pipeline.schedule.jobs import Planned, planned
from crosscast.pipeline.schedule.state import Book, Entry, Job, Name, State
from crosscast.pipeline.schedule.times import local

SET_BACK = timedelta(hours=1)
"""By more than this the clock was wrong before; what was decided then counts no more."""

Say = Callable[[str], None]


class Scheduled:
    """A config and its jobs. `begin` comes first, with the lock of `book`."""

    def __init__(self, config: Config, *, say: Say) -> None:
        self.config = config
        self.book = Book.of(config.path, model=config.model)
        self.jobs: Mapping[Name, Planned] = {job.name: job for job in planned(config)}
        self._say = say

    def begin(self, now: datetime) -> None:
        """Go on from what is written down."""
        state: State | None = None
        try:
            state = self.book.read()
        except ValueError as error:
            self._say(f"{self.config.model}: {error}; it is started afresh")
        known = state.jobs if state else {}
        begun = {name: _begun(known.get(name), job, now) for name, job in self.jobs.items()}
        self.state = State(config=str(self.config.path), model=self.config.model, jobs=begun)
        self.book.write(self.state)

    def next(self, now: datetime) -> datetime:
        """When the next of its jobs comes."""
        return min(job.times.next(now) for job in self.jobs.values())

    def due(self, name: Name, *, now: datetime, awake: datetime) -> Due:
        """What has come of a job. Where no run follows from it, that is written down."""
        if self.state.jobs[name].decided - now > SET_BACK:
            self.tell(name, "the clock was set back: it goes on from now")
            self._save(name, self.state.jobs[name].model_copy(update={"decided": now}))
        schedule = self.config.release.schedule
        assert schedule is not None
        come = due(
            self.jobs[name].times,
            decided=self.state.jobs[name].decided,
            now=now,
            awake=awake,
            catch_up=schedule.catch_up,
        )
        if come.run is None and come.missed:
            self._count(name, come)
        return come

    def start(self, name: Name, come: Due, *, now: datetime) -> Path:
        """Write down that a run starts; gives the path of its log."""
        assert come.run is not None
        self._count(name, come)
        log = self.book.log(name, now)
        entry = Entry(status="running", scheduled=come.run, started=now, log=str(log))
        job = self.state.jobs[name].add(entry)
        self._save(name, job.model_copy(update={"decided": come.run}))
        self.tell(name, f"starts, for {self.shown(name, come.run)}; its log is {log}")
        return log

    def end(self, name: Name, code: int, *, now: datetime, stopped: bool) -> None:
        """Write down how a run has ended, and the times that have come and gone meanwhile."""
        job = self.state.jobs[name]
        ended = jobs.ending(name, code, Path(job.history[-1].log))
        failed = self._told(name, ended) if not stopped else ()
        status = "interrupted" if stopped else ended.status
        job = job.ended(
            status=status,
            ended=now,
            code=code,
            version=ended.version,
            said="it was stopped with the daemon" if stopped else ended.said,
            hooks=(*ended.hooks, *failed),
        )
        gone = self.jobs[name].times.between(job.decided, now)
        self._save(name, job.none_at("skipped", gone))
        version = f" {ended.version}" if ended.version else ""
        why = f" ({code}): {ended.said}" if status == "failed" else ""
        self.tell(name, f"{status}{version}{why}")

    def tell(self, name: Name, text: str) -> None:
        """Tell people of a job."""
        self._say(f"{self.config.model} {name}: {text}")

    def shown(self, name: Name, time: datetime) -> str:
        """A time as the schedule's zone has it."""
        return local(time, self.jobs[name].times.zone)

    def _count(self, name: Name, come: Due) -> None:
        job = self.state.jobs[name].none_at("missed", come.missed)
        self._save(name, job.none_at("skipped", come.skipped))
        if come.missed:
            self.tell(name, f"missed {len(come.missed)}, last {self.shown(name, come.missed[-1])}")

    def _told(self, name: Name, ended: jobs.Ending) -> tuple[str, ...]:
        """Tell what a run that has failed could not tell itself; gives what failed of that."""
        if ended.code in (EXIT_OK, EXIT_INTERRUPTED):
            return ()
        if name == "release" and ended.code > 0 and _loads(self.config.path):
            return ()
        log = self.state.jobs[name].history[-1].log
        outcome = hooks.Outcome.of(
            self.config, event=name, code=ended.code, said=ended.said, log=log
        )
        folder = self.config.path.parent
        failed = hooks.tell(self.config.release.hooks, outcome, folder=folder)
        return tuple(f"{hook}: {why}" for hook, why in failed)

    def _save(self, name: Name, job: Job) -> None:
        self.state = self.state.with_job(name, job)
        self.book.write(self.state)


def _begun(known: Job | None, planned: Planned, now: datetime) -> Job:
    """A job as a daemon finds it. What runs by the file was killed with the daemon before."""
    times = planned.times
    if known is None:
        return Job(cron=times.cron, zone=times.zone, decided=now)
    if (known.cron, known.zone) != (times.cron, times.zone):
        changed = {"cron": times.cron, "zone": times.zone, "decided": now}
        known = known.model_copy(update=changed)
    if known.history and known.history[-1].status == "running":
        known = known.ended(status="interrupted", said="the daemon ended during the run")
    return known


def _loads(config: Path) -> bool:
    try:
        load(config)
    except ConfigError:
        return False
    return True
