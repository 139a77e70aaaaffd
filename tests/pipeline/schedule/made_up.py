"""A made-up machine: its clock, and jobs that take time on it and end as they are told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from crosscast.pipeline.config.load import load
from crosscast.pipeline.schedule.daemon import Daemon
from crosscast.pipeline.schedule.scheduled import Scheduled
from crosscast.pipeline.schedule.state import Entry, Job, Name

CONFIG = """\
model: {model}
version: 1.0.0
source: {{onnx: m.onnx}}
targets: {{onnx: {{}}}}
release: {{schedule: {schedule}, hooks: {hooks}}}
"""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Clock:
    """Time passes only where somebody waits. at: what happens at times, once."""

    def __init__(self, start: datetime, *, until: datetime) -> None:
        self.time, self.until = start, until
        self.stopping = False
        self.waits = 0
        self.at: dict[datetime, Callable[[], None]] = {}

    def now(self) -> datetime:
        return self.time

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        self.waits += 1
        self.time += timedelta(seconds=seconds)
        for time in [time for time in self.at if time <= self.time]:
            self.at.pop(time)()
        if self.time >= self.until:
            self.stopping = True


class Run:
    """A job that takes some time. stopped: its exit code where it is told to stop."""

    def __init__(self, clock: Clock, takes: timedelta, code: int, stopped: int) -> None:
        self.clock, self.ends, self.code = clock, clock.now() + takes, code
        self.stopped = stopped

    def poll(self) -> int | None:
        return self.code if self.clock.now() >= self.ends else None

    def stop(self) -> int:
        return self.stopped


class Machine:
    """Some configs, a clock, and the jobs that were started."""

    def __init__(self, root: Path, start: str, *, until: str) -> None:
        self.root = root
        self.clock = Clock(utc(start), until=utc(until))
        self.takes, self.code, self.stopped = timedelta(seconds=10), 0, 130
        self.version = "1.0.1"
        self.started: list[tuple[datetime, Sequence[str]]] = []
        self.said: list[str] = []
        self.scheduled: list[Scheduled] = []

    def config(self, schedule: str, *, model: str = "m", hooks: str = "{}") -> Path:
        (self.root / "m.onnx").touch()
        path = self.root / f"{model}.yaml"
        path.write_text(CONFIG.format(model=model, schedule=schedule, hooks=hooks))
        return path

    def run(self, *configs: Path, once: bool = False) -> int:
        self.scheduled = [Scheduled(load(path), say=self.said.append) for path in configs]
        daemon = Daemon(self.scheduled, clock=self.clock, launch=self.launch)
        return daemon.run(once=once)

    def launch(self, words: Sequence[str], *, log: Path) -> Run:
        self.started.append((self.clock.now(), words))
        log.parent.mkdir(parents=True, exist_ok=True)
        told = {"event": "released", "said": "as said", "version": self.version}
        log.write_text(json.dumps(told) + "\n")
        return Run(self.clock, self.takes, self.code, self.stopped)

    def starts(self) -> list[str]:
        return [f"{time:%d %H:%M}" for time, _ in self.started]

    def job(self, name: Name = "release", *, of: int = 0) -> Job:
        state = self.scheduled[of].book.read()
        assert state is not None
        return state.jobs[name]

    def history(self, name: Name = "release", *, of: int = 0) -> list[tuple[str, str, int]]:
        def shown(entry: Entry) -> tuple[str, str, int]:
            return entry.status, f"{entry.scheduled:%d %H:%M}", entry.times

        return [shown(entry) for entry in self.job(name, of=of).history]
