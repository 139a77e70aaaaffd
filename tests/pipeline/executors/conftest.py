"""Executors, tasks that misbehave, and the check that no process is left of either."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from crosscast.pipeline.executors.local import Limits, LocalExecutor, Outcome, Task
from crosscast.pipeline.toolchain import Toolchain

HERE = Path(__file__).parent
TOOLCHAIN = Toolchain(name="test", preload=("numpy", "not_there_at_all"), extra="tflite")
GIB = 1024**3
PATIENCE = 60.0

Make = Callable[..., Task]
Run = Callable[..., Outcome]


def processes(mark: str) -> list[int]:
    """Live processes that were started with the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone, a zombie, or not ours
            if mark in process.environ().values():
                found.append(process.pid)
    return found


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks every process that the test starts; none of them may outlive it."""
    value = uuid.uuid4().hex
    monkeypatch.setenv("CROSSCAST_TEST", value)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    yield value
    left = processes(value)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def left(mark: str) -> Callable[[], list[int]]:
    """What is alive now of all that the test started."""
    return lambda: processes(mark)


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(cache=tmp_path / "cache") as value:
        yield value


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def one(
        do: str,
        *,
        name: str = "task",
        timeout: float = 60.0,
        memory: int = 4 * GIB,
        toolchain: Toolchain = TOOLCHAIN,
        **arguments: Any,
    ) -> Task:
        out = tmp_path / "work" / name
        out.mkdir(parents=True)
        return Task(
            id=name,
            module="fake_stages",
            toolchain=toolchain,
            inputs={"source": Path(__file__)},
            options={"do": do, **arguments},
            out=out,
            log=tmp_path / "logs" / f"{name}.log",
            limits=Limits(timeout=timeout, memory=memory),
        )

    return one


@pytest.fixture
def run(executor: LocalExecutor, make: Make) -> Run:
    """Run one task to its end."""

    def one(do: str, **arguments: Any) -> Outcome:
        executor.submit(make(do, **arguments))
        outcome = executor.wait(PATIENCE)
        assert outcome is not None
        return outcome

    return one
