"""What has become of the jobs of a config, on disk: one folder a config, written by one daemon.

    schedule/<model>-<digest of the config's path>/
        state.json    what was decided, and the last runs; replaced at once
        lock          held by the daemon, with its process number
        logs/         what the runs have printed

It is in the cache: whoever deletes it loses the history, and what was missed is not known.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from crosscast.pipeline import staging
from crosscast.pipeline.digest import of_json
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.store import default_root

KEPT = 50
"""Entries of a job's history."""

Name = Literal["release", "verify"]
Status = Literal[
    "running", "published", "nothing changed", "passed", "failed", "interrupted", "missed",
    "skipped",
]  # fmt: skip
COUNTED = ("missed", "skipped")


class Entry(BaseModel):
    """One run, or times that there was none at.

    scheduled: the time that it was for, the last one of several. times: how many. code: the exit
    code, negative where a signal has ended it. version: what was published. said: why it failed.
    hooks: those that failed.
    """

    model_config = ConfigDict(frozen=True)

    status: Status
    scheduled: AwareDatetime
    times: int = 1
    started: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    code: int | None = None
    version: str = ""
    said: str = ""
    log: str = ""
    hooks: tuple[str, ...] = ()


class Job(BaseModel):
    """A job: when it comes, the last time that was dealt with, and its history, oldest first."""

    model_config = ConfigDict(frozen=True)

    cron: str
    zone: str
    decided: AwareDatetime
    history: tuple[Entry, ...] = ()

    def add(self, entry: Entry) -> Job:
        """With one more entry. Times that nothing was done at are counted in one."""
        history = self.history
        if history and entry.status in COUNTED and history[-1].status == entry.status:
            times = entry.times + history[-1].times
            history, entry = history[:-1], entry.model_copy(update={"times": times})
        return self.model_copy(update={"history": (*history, entry)[-KEPT:]})

    def none_at(self, status: Literal["missed", "skipped"], times: Sequence[datetime]) -> Job:
        """With times that nothing was done at, if there are any."""
        if not times:
            return self
        entry = Entry(status=status, scheduled=times[-1], times=len(times))
        return self.add(entry).model_copy(update={"decided": max(self.decided, times[-1])})

    def ended(self, **given: object) -> Job:
        """With the last entry, a run, as it has ended."""
        last = self.history[-1].model_copy(update=given)
        return self.model_copy(update={"history": (*self.history[:-1], last)})

    def last_run(self) -> Entry | None:
        """The last entry that is a run."""
        runs = (entry for entry in reversed(self.history) if entry.status not in COUNTED)
        return next(runs, None)

    def counted(self, status: Literal["missed", "skipped"]) -> int:
        """How many times of its history nothing was done at."""
        return sum(entry.times for entry in self.history if entry.status == status)


class State(BaseModel):
    """What has become of the jobs of a config."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    config: str
    model: str
    jobs: dict[Name, Job] = {}

    def with_job(self, name: Name, job: Job) -> State:
        """With another state of a job."""
        return self.model_copy(update={"jobs": {**self.jobs, name: job}})


class Book:
    """The folder of a config's state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = folder / "lock"
        self._file = folder / "state.json"

    @classmethod
    def of(cls, config: Path, *, model: str) -> Book:
        """That of a config."""
        return cls(_root() / f"{model}-{of_json(str(config.resolve()))[:8]}")

    def read(self) -> State | None:
        """What is written there; None where nothing is. Raises ValueError, in words."""
        try:
            return State.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ValueError(f"{self._file} cannot be used: {first['msg']}") from None
        except OSError as error:
            raise ValueError(f"{self._file} cannot be read: {error.strerror}") from None

    def write(self, state: State) -> None:
        """Replace what is written there, and remove the logs of runs that it has no more."""
        staged = self._file.with_suffix(".new")
        with _explained(self._file):
            with staged.open("w", encoding="utf-8") as file:
                file.write(state.model_dump_json(indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            staged.replace(self._file)
        kept = {entry.log for job in state.jobs.values() for entry in job.history}
        for log in self.folder.glob("logs/*.log"):
            if str(log) not in kept:
                log.unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the one daemon that writes there. ConfigError where there is one already."""
        with ExitStack() as stack:
            try:
                with _explained(self.folder):
                    stack.enter_context(staging.alone(self._lock))
            except staging.TakenError as error:
                raise ConfigError(
                    f"another daemon has this schedule: {error}, by {self._lock}",
                    fix="stop that one first, or leave this config to it",
                ) from None
            yield

    def daemon(self) -> str | None:
        """The process number of the daemon; None where none is there."""
        return staging.holder(self._lock) if self._lock.exists() else None

    def log(self, job: Name, started: datetime) -> Path:
        """Where a run's output goes."""
        return self.folder / "logs" / f"{job}-{started:%Y%m%dT%H%M%SZ}.log"


def books() -> Iterator[Book]:
    """Those of all configs that ever were scheduled here."""
    return (Book(path.parent) for path in sorted(_root().glob("*/state.json")))


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """A full disk is told at the top, as it is for all commands."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ConfigError(
            f"cannot write {place}: {error.strerror}",
            fix="set CROSSCAST_CACHE to a directory that can be written",
        ) from error


def _root() -> Path:
    return default_root() / "schedule"
