"""The time, and waiting for it: until then, or until a child ends or somebody says stop."""

from __future__ import annotations

import select
import signal
import socket
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Self

STOPS = (signal.SIGTERM, signal.SIGINT)


class Clock:
    """The machine's. stopping: whether SIGTERM or SIGINT has come since it was entered."""

    def __init__(self) -> None:
        self.stopping = False
        self._before: dict[int, Any] = {}

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float) -> None:
        """Let that much time pass; less where a signal comes."""
        ready, _, _ = select.select([self._reading], [], [], max(0.0, seconds))
        if ready:
            self._reading.recv(4096)

    def __enter__(self) -> Self:
        """Listen to signals. A byte for each wakes `wait` even where it comes just before it."""
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in STOPS:
            self._before[number] = signal.signal(number, self._stop)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        """Have signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._reading.close()
        self._writing.close()

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True
