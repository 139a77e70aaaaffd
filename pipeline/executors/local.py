"""Runs tasks on this machine, each in an isolated process below a warm parent of its toolchain."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from crosscast.pipeline.errors import CrosscastError, ToolchainError
from crosscast.pipeline.executors import overlay
from crosscast.pipeline.executors.outcome import (
    Limits,
    Outcome,
    Status,
    Task,
    last_lines,
    outcome,
    signal_name,
)
from crosscast.pipeline.toolchain import Toolchain, Warmth
from crosscast.pipeline.worker import isolation
from crosscast.pipeline.worker.main import Order

__all__ = ["Limits", "LocalExecutor", "Outcome", "Status", "Task"]

FORK = isolation.LINUX
"""Whether workers are forks. macOS's own libraries do not survive a fork without exec."""

_SUPERVISOR = "crosscast.pipeline.worker.supervisor"
_MARK = "CROSSCAST_SUPERVISOR"
_START = 180.0  # seconds that a warm parent may take to import what it preloads
_STOP = 10.0  # seconds that it may take to end


class LocalExecutor:
    """Runs tasks in isolated processes; to be used as a context manager, by one thread.

    cache: directory that overlays are built in.
    threads: of each task's own parallel arithmetic, unless OMP_NUM_THREADS says otherwise. More
        threads than processors wait for each other in every operator: measured, fifteen times the
        time.
    on_message: told, in a line, of work that takes long and is no task's.
    """

    def __init__(
        self,
        *,
        cache: Path,
        threads: int = 1,
        on_message: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.cache = cache
        self.threads = threads
        self.on_message = on_message
        self.parents: dict[Warmth, _Parent] = {}
        self.cold: deque[Toolchain] = deque()
        self.finished: deque[Outcome] = deque()
        self.builder = _Builder(cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm(self, toolchains: Iterable[Toolchain]) -> None:
        """Start the warm parents of these toolchains in the background, one after another.

        All at once, their imports would take the processors from the tasks that are under way.
        """
        self.cold.extend(toolchains)
        self._warm_next()

    def submit(self, task: Task) -> None:
        """Have a task run, at once. `task.out` must be there already."""
        self._parent(task.toolchain).send(task)

    def run(self, task: Task) -> Outcome:
        """Have a task run where no other is under way, and wait for its end."""
        self.submit(task)
        outcome = self.wait()
        assert outcome is not None
        return outcome

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """The next outcome; None after `timeout` seconds, and where no task is under way."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.finished and any(parent.tasks for parent in self.parents.values()):
            left = None if end is None else max(0.0, end - time.monotonic())
            self._step(left)
            if left == 0:
                break
        return self.finished.popleft() if self.finished else None

    def cancel(self) -> None:
        """Kill everything and wait until no process is left.

        `wait` then gives the outcomes of what was under way: "cancelled".
        """
        tasks = [task for parent in self.parents.values() for task in parent.tasks.values()]
        self._stop()
        self.finished.extend(
            Outcome(task=task.id, status="cancelled", message="cancelled", log=task.log)
            for task in tasks
        )

    def close(self) -> None:
        """Kill everything and wait until no process is left."""
        self._stop()
        self.builder.close()

    def _warm_next(self) -> None:
        while self.cold and all(parent.ready or parent.tasks for parent in self.parents.values()):
            toolchain = self.cold.popleft()
            if toolchain.warmth not in self.parents:
                self._new_parent(toolchain)
            self.parents[toolchain.warmth].preload(toolchain)

    def _stop(self) -> None:
        self.cold.clear()
        self.builder.cancel()
        parents, self.parents = list(self.parents.values()), {}
        for parent in parents:  # all at once, and only then wait
            parent.hang_up()
        for parent in parents:
            parent.stop()

    def _parent(self, toolchain: Toolchain) -> _Parent:
        parent = self.parents.get(toolchain.warmth)
        if parent and parent.dead():
            self._bury(parent)
            parent = None
        return parent or self._new_parent(toolchain)

    def _new_parent(self, toolchain: Toolchain) -> _Parent:
        parent = self.parents[toolchain.warmth] = _Parent(toolchain, self.threads)
        lock = toolchain.overlay
        if lock and not overlay.installed(lock, self.cache):
            pinned = overlay.requirements(lock).items()
            names = ", ".join(f"{name} {version}" for name, version in pinned)
            self.on_message(f"installing {names} for {toolchain.name} (once)")
            self.builder.build(parent, lock)
        else:
            parent.start(overlay.overlay_directory(lock, self.cache) if lock else None)
        return parent

    def _step(self, timeout: float | None) -> None:
        """Wait for something to happen, and take it in."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.builder.wakeup, selectors.EVENT_READ)
            for parent in self.parents.values():
                if parent.link:
                    selector.register(parent.link, parent.events(), parent)
            limits = [timeout, *(parent.patience() for parent in self.parents.values())]
            happened = selector.select(
                min((limit for limit in limits if limit is not None), default=None)
            )
        for key, events in happened:
            if key.data is None:
                self._built()
            else:
                self._heard(key.data, events)
        self._warm_next()
        for parent in list(self.parents.values()):
            if parent.patience() == 0:
                self._bury(parent, f"did not start within {_START:g} s: an import hangs")

    def _heard(self, parent: _Parent, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            parent.flush()
        if events & selectors.EVENT_READ:
            self.finished.extend(parent.receive())
            if parent.ended:
                self._bury(parent)

    def _built(self) -> None:
        for parent, built in self.builder.results():
            if self.parents.get(parent.toolchain.warmth) is not parent:
                continue  # cancelled meanwhile
            if isinstance(built, CrosscastError):
                del self.parents[parent.toolchain.warmth]
                self.finished.extend(
                    Outcome(
                        task=task.id,
                        status="error",
                        message=built.message,
                        fix=built.fix,
                        exit_code=built.exit_code,
                        log=task.log,
                    )
                    for task in parent.tasks.values()
                )
                parent.stop()
            else:
                parent.start(built)

    def _bury(self, parent: _Parent, why: str = "") -> None:
        """A warm parent is gone or given up: so are its tasks. The next task gets a new one."""
        if self.parents.get(parent.toolchain.warmth) is not parent:
            return
        del self.parents[parent.toolchain.warmth]
        self.finished.extend(parent.receive())  # what it said before it went
        status: Status = "timeout"
        if why:
            parent.kill()
        else:
            status, why = parent.obituary()
        message = f"the warm parent of its workers ({parent.toolchain.name}) {why}"
        lines = last_lines(parent.said())
        for task in parent.tasks.values():
            said = f"{message}\n  it said last:\n{lines}" if lines else message
            self.finished.append(Outcome(task=task.id, status=status, message=said, log=task.log))
        parent.stop()


class _Parent:
    """A warm parent: its process, the link to it, and the tasks that it was given."""

    def __init__(self, toolchain: Toolchain, threads: int) -> None:
        self.toolchain = toolchain
        self.threads = threads
        self.tasks: dict[str, Task] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.link: socket.socket | None = None
        self.ready = False
        self.ended = False
        self.outgoing = b""
        self.incoming = b""
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self.mark = uuid.uuid4().hex

    def start(self, on_path: Path | None) -> None:
        """Start the process; it gets what was sent so far. on_path: an overlay's directory."""
        self.link, theirs = socket.socketpair()
        self.link.setblocking(False)
        environment = isolation.scrubbed(os.environ)
        environment |= {_MARK: self.mark, "PYTHONHASHSEED": "0"}
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        if on_path:  # by the environment, so that sub-processes of converters see it as well
            paths = [str(on_path), *filter(None, [environment.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        description = json.dumps({"preload": self.toolchain.preload, "fork": FORK})
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _SUPERVISOR, str(theirs.fileno()), description],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.started = time.monotonic()
        self.flush()

    def send(self, task: Task) -> None:
        """Give it a task, now or as soon as it takes it."""
        self.tasks[task.id] = task
        self.outgoing += json.dumps(_order(task)).encode() + b"\n"
        self.flush()

    def preload(self, toolchain: Toolchain) -> None:
        """Have it import what the toolchain wants later."""
        if toolchain.later:
            wish = {"preload": toolchain.later, "hidden": toolchain.hidden}
            self.outgoing += json.dumps(wish).encode() + b"\n"
            self.flush()

    def flush(self) -> None:
        """Write what the link takes without blocking."""
        with contextlib.suppress(BlockingIOError, ConnectionError):  # the latter is read as an end
            while self.link and self.outgoing:
                self.outgoing = self.outgoing[self.link.send(self.outgoing) :]

    def receive(self) -> list[Outcome]:
        """The outcomes that have arrived."""
        try:
            while self.link and not self.ended:
                data = self.link.recv(65536)
                self.incoming += data
                self.ended = not data
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = True
        *lines, self.incoming = self.incoming.split(b"\n")
        return [found for line in lines if (found := self._read(json.loads(line)))]

    def _read(self, message: Any) -> Outcome | None:
        if "ready" in message:
            self.ready = True
            return None
        return outcome(self.tasks.pop(message["id"]), message)

    def events(self) -> int:
        """What to wait for on the link."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)

    def patience(self) -> float | None:
        """Seconds left for it to become ready; None where it is."""
        if self.ready or not self.process:
            return None
        return max(0.0, self.started + _START - time.monotonic())

    def dead(self) -> bool:
        """Whether the process was started and has ended."""
        return self.process is not None and self.process.poll() is not None

    def obituary(self) -> tuple[Status, str]:
        """How it ended."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # its link ends a moment before it
            self.process.wait(_STOP)
        code = self.process.returncode
        if code is not None and code < 0:
            return "signal", f"was killed by {signal_name(-code)}"
        return "exit", f"ended by itself (code {code})"

    def said(self) -> str:
        """Its own output: what imports printed, its traceback."""
        self.output.seek(0)
        return self.output.read().decode(errors="replace")

    def hang_up(self) -> None:
        """Tell it to end, with all that is below it."""
        if self.link:
            self.link.close()
            self.link = None
        if self.process and self.process.stdin:
            self.process.stdin.close()

    def kill(self) -> int:
        """Kill its process; the exit code."""
        assert self.process is not None
        self.process.kill()
        return self.process.wait()

    def stop(self) -> None:
        """Hang up, and wait until it has ended and nothing is left of what was below it."""
        self.hang_up()
        if self.process:
            try:
                code = self.process.wait(_STOP)
            except subprocess.TimeoutExpired:
                code = self.kill()
            if code not in (0, -signal.SIGIO):  # SIGIO: before it started anything
                self._clean_up()
        self.output.close()

    def _clean_up(self) -> None:
        """What it does itself where it gets to."""
        _kill_marked(self.mark)
        for task in self.tasks.values():
            shutil.rmtree(_scratch(task), ignore_errors=True)


class _Builder:
    """Builds overlays in the background. `wakeup` becomes readable when one is done."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.wakeup, self._alarm = socket.socketpair()
        self._done: queue.SimpleQueue[tuple[_Parent, Path | CrosscastError]] = queue.SimpleQueue()
        self._running: list[subprocess.Popen[str]] = []

    def build(self, parent: _Parent, lock: Path) -> None:
        """Build the overlay that a warm parent waits for."""
        threading.Thread(target=self._build, args=(parent, lock), daemon=True).start()

    def results(self) -> Iterable[tuple[_Parent, Path | CrosscastError]]:
        """What is done: the overlay's directory, or why there is none."""
        self.wakeup.recv(4096)
        while not self._done.empty():
            yield self._done.get()

    def cancel(self) -> None:
        """End the installers that run."""
        for process in list(self._running):
            process.kill()
            process.wait()

    def close(self) -> None:
        """Let go of the descriptors."""
        self.wakeup.close()
        self._alarm.close()

    def _build(self, parent: _Parent, lock: Path) -> None:
        built: Path | CrosscastError
        try:
            built = overlay.build(lock, self.cache, self._run)
        except CrosscastError as error:
            built = error
        except OSError as error:
            built = ToolchainError(f"the overlay {lock.stem} could not be installed: {error}")
        self._done.put((parent, built))
        with contextlib.suppress(OSError):  # closed meanwhile
            self._alarm.send(b".")

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            self._running.append(process)
            output, _ = process.communicate()
            self._running.remove(process)
        return subprocess.CompletedProcess(command, process.returncode, output)


def _order(task: Task) -> Order:
    return Order(
        id=task.id,
        module=task.module,
        inputs={name: str(path.absolute()) for name, path in task.inputs.items()},
        options=task.options,
        out=str(task.out.absolute()),
        log=str(task.log.absolute()),
        scratch=str(_scratch(task)),
        hidden=task.toolchain.hidden,
        extra=task.toolchain.extra,
        timeout=task.limits.timeout,
        memory=task.limits.memory,
    )


def _scratch(task: Task) -> Path:
    out = task.out.absolute()
    return out.with_name(f"{out.name}.scratch")


def _kill_marked(mark: str) -> None:
    """Kill what a warm parent left that ended without doing so itself, found by its environment.

    Its workers die with it; their sub-processes do not.
    """
    quiet = 0
    while quiet < 2:  # twice: in the middle of an exec a process shows no environment
        quiet = 0 if _kill_marked_now(mark) else quiet + 1


def _kill_marked_now(mark: str) -> bool:
    """Whether there were any."""
    import psutil  # only here, where things went wrong

    found = False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark:
                found = True
                process.kill()
    return found
