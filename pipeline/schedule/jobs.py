"""The jobs of a schedule: the commands that they are, as processes of their own, and what these
have said. A build that crashes or leaks takes nothing else with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.release.hooks import LOG
from crosscast.pipeline.schedule.state import Name, Status
from crosscast.pipeline.schedule.times import Times
from crosscast.pipeline.worker import isolation

CROSSCAST = (sys.executable, "-m", "crosscast.pipeline.cli")
PATIENCE = 30.0
"""Seconds that a job has to end after it was told to."""

TAIL = 2**18
"""Bytes at the end of a log that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A job: when it comes, and the words after `crosscast` that it is."""

    name: Name
    times: Times
    words: tuple[str, ...]

    @property
    def told(self) -> tuple[str, ...]:
        """The words that have it say its end so that `ending` can read it."""
        return (*self.words, "--json") if self.name == "release" else self.words


def planned(config: Config) -> list[Planned]:
    """The jobs of a config. Raises ConfigError where it has no schedule."""
    schedule = config.release.schedule
    if schedule is None:
        raise ConfigError(
            f"{config.path}: release.schedule: this key is missing",
            fix="say when, such as `release: {schedule: '0 3 * * 1-5'}`",
        )
    jobs: list[Planned] = []
    if schedule.cron is not None:
        times = Times(schedule.cron, schedule.timezone)
        release = ("release", str(config.path), "--bump", schedule.bump)
        jobs.append(Planned(name="release", times=times, words=release))
    if schedule.verify is not None:
        times = Times(schedule.verify.cron, schedule.timezone)
        jobs.append(Planned(name="verify", times=times, words=("verify", published(config))))
    return jobs


def published(config: Config) -> str:
    """The release that is verified, as `[REGISTRY/]MODEL[@NAME]`."""
    schedule = config.release.schedule
    named = schedule.verify.release if schedule and schedule.verify else None
    name = named or config.release.channel
    registry = (config.release.registry or "artifacts").rstrip("/")
    return f"{registry}/{config.model}{f'@{name}' if name else ''}"


class Process:
    """A running job. Its output goes to a file; on Linux it ends with this process."""

    def __init__(self, words: Sequence[str], *, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*CROSSCAST, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, LOG: str(log)},
                start_new_session=True,  # Ctrl-C is for the daemon, which passes it on
                preexec_fn=_bound() if isolation.LINUX else None,
            )

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Tell it to stop, and make it where that takes too long; gives its exit code."""
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()


def _bound() -> partial[None]:
    return partial(isolation.die_with_parent, os.getpid())


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job has ended, from its exit code and its log. The fields are those of `Entry`."""

    status: Status
    code: int
    version: str = ""
    said: str = ""
    hooks: tuple[str, ...] = ()


def ending(name: Name, code: int, log: Path) -> Ending:
    """What became of a job."""
    lines = _tail(log)
    told = list(_events(lines))
    hooks = tuple(f"{it['hook']}: {it['why']}" for it in told if it.get("event") == "hook_failed")
    released = [it for it in told if it.get("event") == "released"]
    version = str(released[-1].get("version", "")) if released else ""
    if code:
        said = [
            _signal(code),
            _error(lines),
            *(str(it.get("said")) for it in released),
            *lines[-1:],
        ]
        return Ending(status="failed", code=code, said=next(filter(None, said), ""), hooks=hooks)
    status: Status = "passed"
    if name == "release":
        status = "published" if version else "nothing changed"
    return Ending(status=status, code=code, version=version, hooks=hooks)


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
            return [line for line in lines if line.strip()]
    except OSError:
        return []


def _events(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # stderr goes to the same file
        if isinstance(event, dict):
            yield event


def _error(lines: Sequence[str]) -> str:
    """What `crosscast` has printed of its end, in one line."""
    errors = (line for line in reversed(lines) if line.startswith("error: "))
    return next(errors, "").removeprefix("error: ")


def _signal(code: int) -> str:
    return f"it was killed by {signal.Signals(-code).name}" if code < 0 else ""
