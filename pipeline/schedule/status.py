"""`crosscast schedule status`: what was done, what was not, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from crosscast.pipeline.config.load import load
from crosscast.pipeline.schedule.jobs import planned
from crosscast.pipeline.schedule.state import Book, Entry, Job, Name, State, books
from crosscast.pipeline.schedule.times import Times, local

SHOWN = 5
"""Last runs that people are shown."""


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A job. next: when it comes, in UTC, ISO 8601. missed, skipped: times in its history that
    nothing was done at. waiting: times that have come since somebody looked last.
    """

    name: Name
    cron: str
    zone: str
    next: str
    missed: int
    skipped: int
    waiting: int
    history: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Status:
    """A config. daemon: its process number, empty where none runs. problem: what cannot be told."""

    config: str
    model: str
    daemon: str
    problem: str
    jobs: list[JobStatus]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def of(configs: Sequence[Path], now: datetime) -> list[Status]:
    """Those of configs, whether they ever ran or not; without any, of all that ever were scheduled
    here. Raises ConfigError.
    """
    return [_of_config(path, now) for path in configs] if configs else _of_all(now)


def _of_config(path: Path, now: datetime) -> Status:
    config = load(path)
    book = Book.of(config.path, model=config.model)
    jobs: dict[Name, Job] = {}
    state, problem = _read(book)
    known = state.jobs if state else {}
    for job in planned(config):
        never = Job(cron=job.times.cron, zone=job.times.zone, decided=now)
        same = known.get(job.name, never)
        unchanged = (same.cron, same.zone) == (never.cron, never.zone)
        jobs[job.name] = same if unchanged else never.model_copy(update={"history": same.history})
    found = State(config=str(config.path), model=config.model, jobs=jobs)
    return _status(found, book, problem, now)


def _of_all(now: datetime) -> list[Status]:
    found = []
    for book in books():
        state, problem = _read(book)
        empty = State(config=str(book.folder), model=book.folder.name)
        found.append(_status(state or empty, book, problem, now))
    return found


def _read(book: Book) -> tuple[State | None, str]:
    try:
        return book.read(), ""
    except ValueError as error:
        return None, str(error)


def _status(state: State, book: Book, problem: str, now: datetime) -> Status:
    return Status(
        config=state.config,
        model=state.model,
        daemon=book.daemon() or "",
        problem=problem,
        jobs=[_job(name, job, now) for name, job in state.jobs.items()],
    )


def _job(name: Name, job: Job, now: datetime) -> JobStatus:
    times = Times(job.cron, job.zone)
    return JobStatus(
        name=name,
        cron=job.cron,
        zone=job.zone,
        next=times.next(now).isoformat(),
        missed=job.counted("missed"),
        skipped=job.counted("skipped"),
        waiting=len(times.between(job.decided, now)),
        history=[entry.model_dump(mode="json") for entry in reversed(job.history)],
    )


def describe(found: Sequence[Status]) -> str:
    """All that for people."""
    return "\n".join(line for status in found for line in _lines(status)) or "nothing is scheduled"


def _lines(status: Status) -> list[str]:
    daemon = f"daemon {status.daemon}" if status.daemon else "no daemon"
    lines = [f"{status.model}  {status.config}  {daemon}"]
    lines += [f"  {status.problem}"] if status.problem else []
    for job in status.jobs:
        counts = {"missed": job.missed, "skipped": job.skipped, "not looked at yet": job.waiting}
        told = "".join(f", {number} {what}" for what, number in counts.items() if number)
        next_ = local(datetime.fromisoformat(job.next), job.zone)
        lines.append(f"  {job.name:<7}  {job.cron}  next {next_}{told}")
        entries = [Entry.model_validate(entry) for entry in job.history[:SHOWN]]
        lines += [f"    {_entry(entry, job.zone)}" for entry in entries]
    return lines


def _entry(entry: Entry, zone: str) -> str:
    at = local(entry.scheduled, zone)
    if entry.started is None:
        return f"{at}  {entry.status}{f', {entry.times} times' if entry.times > 1 else ''}"
    ended = f"  {(entry.ended - entry.started).total_seconds():.0f} s" if entry.ended else ""
    what = f"{entry.status}{f' {entry.version}' if entry.version else ''}"
    why = f" ({entry.code}): {entry.said}" if entry.status == "failed" else ""
    failed = f"; {', '.join(entry.hooks)}" if entry.hooks else ""
    log = f"  {entry.log}" if entry.status in ("failed", "interrupted") else ""
    return f"{at}  {what}{why}{failed}{ended}{log}"
