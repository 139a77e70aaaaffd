"""The warm parent of a toolchain's workers: it imports the frameworks once, then forks a process
for each task and watches it. It never runs an op itself: a parent that did would hand its
children locks that nobody releases.

Run by an executor as `python -P -m crosscast.pipeline.worker.supervisor FD DESCRIPTION`, in a
session of its own, where FD is a connected stream socket, DESCRIPTION a JSON object {"preload":
[module, ...], "fork": bool}, and stdin a pipe that the executor keeps open. Messages are lines of
JSON. In: an `Order` each, or {"preload": [module, ...], "hidden": [module, ...]}: modules to import
when idle. Out: {"ready": true} once, then an `Ending` for each task.

It ends, with every process below it, when the executor does or closes its end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, NoReturn, TypedDict

from crosscast.pipeline.stages import STAGES
from crosscast.pipeline.worker import isolation
from crosscast.pipeline.worker.main import Order, Report, said, work

_TICK = 0.05  # seconds between two looks at running tasks
_LAST_WORDS = 0.5  # seconds that a task out of time has to write its tracebacks
_SWEEP = 5.0  # seconds to wait for killed processes that hang in the kernel


class Ending(TypedDict):
    """How a worker ended.

    killed: "timeout" or "memory" where the supervisor did it, else empty.
    code: exit code, or minus the signal's number.
    report: None where the worker did not get to write it.
    seconds, peak (bytes): measured from the fork to the end.
    """

    id: str
    killed: str
    code: int
    report: Report | None
    seconds: float
    peak: int


@dataclass(kw_only=True)
class _Worker:
    order: Order
    report: IO[bytes]
    started: float
    gauge: isolation.Gauge
    deadline: float
    killed: str = ""


class Supervisor:
    """Runs orders from `link`; `fork` or else a fresh interpreter for each."""

    def __init__(self, link: socket.socket, *, fork: bool) -> None:
        self.link = link
        self.fork = fork
        self.received = b""
        self.later: deque[tuple[str, Sequence[str]]] = deque()
        self.workers: dict[int, _Worker] = {}
        self.wakeup = _wakeup_on_child_end()
        self.parent = _watched(os.getppid())

    def serve(self) -> NoReturn:
        """Work until the executor is gone, then end, with all that is below this process."""
        try:
            self._send({"ready": True})
            while self._wait_and_receive():
                self._reap()
                self._watch()
        except ConnectionError:  # the executor is gone
            pass
        except BaseException:  # noqa: BLE001  a bug must leave no process behind either
            traceback.print_exc()
        self._end()

    def _wait_and_receive(self) -> bool:
        """Take in what there is to read, waiting a while for it; False once the end has come."""
        awaited: list[socket.socket | int] = [self.link, self.wakeup, *self.parent]
        timeout = 0.0 if self.later else _TICK if self.workers else None
        ready, _, _ = select.select(awaited, (), (), timeout)
        if self.later and not ready:
            self._import_later(*self.later.popleft())
        if self.wakeup in ready:
            self.wakeup.recv(4096)
        if self.link in ready:
            data = self.link.recv(65536)
            if not data:
                return False
            *lines, self.received = (self.received + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        return not set(ready) & set(self.parent)

    def _take(self, message: Any) -> None:
        if "preload" not in message:
            self._start(message)
        elif self.fork:
            self.later.extend((module, message["hidden"]) for module in message["preload"])

    def _import_later(self, module: str, hidden: Sequence[str]) -> None:
        absent = [name for name in hidden if name not in sys.modules]
        isolation.hide(absent)
        _preload([module])
        for name in absent:  # other toolchains' workers may see them
            del sys.modules[name]

    def _start(self, order: Order) -> None:
        now = time.monotonic()
        worker = _Worker(
            order=order,
            report=_anonymous_file(),
            started=now,
            deadline=now + order["timeout"],
            gauge=isolation.Gauge(order["memory"]),
        )
        begin = self._fork if self.fork else _spawn
        try:
            self.workers[begin(order, worker.report)] = worker
        except OSError as error:  # no memory or process left
            report = said("error", f"no process could be started: {error.strerror}")
            worker.report.write(json.dumps(report).encode())
            self._send(_ending(worker, 0))

    def _fork(self, order: Order, report: IO[bytes]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for held in (self.link, self.wakeup):
                held.close()
            for other in self.workers.values():
                other.report.close()
            work(order, report.fileno(), parent)
        return pid

    def _reap(self) -> None:
        for pid in list(self.workers):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                isolation.kill(pid)  # what is left of its group; the number is not used again yet
                worker = self.workers.pop(pid)
                self._sweep()
                self._send(_ending(worker, os.waitstatus_to_exitcode(status)))

    def _watch(self) -> None:
        now = time.monotonic()
        for pid, worker in self.workers.items():
            if now >= worker.deadline:
                self._out_of_time(pid, worker, now)
            elif worker.gauge.over(isolation.tree(pid)) and not worker.killed:
                worker.killed = "memory"
                self._kill(pid)

    def _out_of_time(self, pid: int, worker: _Worker, now: float) -> None:
        if worker.killed:
            self._kill(pid)
            return
        worker.killed = "timeout"
        worker.deadline = now + _LAST_WORDS
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)  # faulthandler tells where every thread is, GIL or not

    def _kill(self, pid: int) -> None:
        for member in isolation.tree(pid):
            isolation.kill(member)

    def _sweep(self) -> None:
        """Kill what ended tasks left behind, daemons included.

        This process is a subreaper, and so is every worker while it lives: a child of this
        process that is no running worker is what an ended one left. Killing it hands its own
        children up, until none is left.
        """
        until = time.monotonic() + _SWEEP
        while time.monotonic() < until:
            strays = [pid for pid in isolation.children(os.getpid()) if pid not in self.workers]
            if not strays:
                return
            for pid in strays:
                self._kill(pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.001)

    def _end(self) -> NoReturn:
        for pid in self.workers:
            self._kill(pid)
        workers, self.workers = self.workers, {}
        self._sweep()
        for worker in workers.values():
            shutil.rmtree(worker.order["scratch"], ignore_errors=True)
        os._exit(0)

    def _send(self, message: Any) -> None:
        self.link.sendall(json.dumps(message).encode() + b"\n")


def _ending(worker: _Worker, code: int) -> Ending:
    shutil.rmtree(worker.order["scratch"], ignore_errors=True)
    with worker.report as file:
        file.seek(0)
        text = file.read()
    return Ending(
        id=worker.order["id"],
        killed=worker.killed,
        code=code,
        report=json.loads(text) if text and code == 0 else None,
        seconds=time.monotonic() - worker.started,
        peak=worker.gauge.peak,
    )


def _spawn(order: Order, report: IO[bytes]) -> int:
    os.set_inheritable(report.fileno(), True)
    command = [sys.executable, "-P", "-m", "crosscast.pipeline.worker.main", str(report.fileno())]
    with _anonymous_file() as stdin:
        stdin.write(json.dumps(order).encode())
        stdin.seek(0)
        actions = [(os.POSIX_SPAWN_DUP2, stdin.fileno(), 0)]
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    os.set_inheritable(report.fileno(), False)
    return pid


def _anonymous_file() -> IO[bytes]:
    """A file without a name; in memory where that can be, so that a full disk does not matter."""
    if isolation.LINUX:
        return open(os.memfd_create("crosscast"), "w+b", buffering=0)  # noqa: PTH123
    return tempfile.TemporaryFile(buffering=0)


def _wakeup_on_child_end() -> socket.socket:
    """A socket that becomes readable when a child ends."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reading


def _watched(pid: int) -> list[int]:
    """A descriptor that becomes readable when the process ends, where the system has such.

    The link's end tells the same, unless some fork of the executor holds it open.
    """
    try:
        return [os.pidfd_open(pid)]
    except (AttributeError, OSError):
        return []


def _end_with_stdin() -> None:
    """Be ended by the kernel when the other end of stdin closes: imports cannot look for that."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    _notify_of_stdin(True)
    if poll.poll(0):  # it was closed before
        os._exit(1)


def _notify_of_stdin(on: bool) -> None:
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC if on else flags & ~os.O_ASYNC)


def _preload(modules: Iterable[str]) -> None:
    gc.disable()  # imports make much that lives on and little rubbish
    for name in modules:
        with contextlib.suppress(ImportError):  # the step that needs it says what it lacks
            importlib.import_module(name)
    gc.freeze()  # or the collector would touch, and so copy, every page in every worker
    gc.enable()


def main() -> NoReturn:
    """The entry of the process."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.set_inheritable(False)
    description = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    isolation.become_subreaper()
    if description["fork"]:
        _end_with_stdin()
        isolation.cut_network()
        _preload(["numpy", *description["preload"], *STAGES.values()])
        _notify_of_stdin(False)
        # The other threads are those of imported libraries; they handle forks by themselves.
        warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
    sys.stdout.flush()
    Supervisor(link, fork=description["fork"]).serve()


if __name__ == "__main__":
    main()
