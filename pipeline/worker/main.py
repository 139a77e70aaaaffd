"""What runs in a worker's process: one task, and then the process ends.

The process is a fork of a warm parent (supervisor.py) or, where forking is not safe, a fresh
interpreter that runs this module.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypedDict

from crosscast.pipeline.errors import CrosscastError, StageError, ToolchainError
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.worker import isolation
from crosscast.pipeline.worker.usercode import described, place

TRACEBACK = "-- the step ended with this error --"
"""The line of the log above a worker's last traceback."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_ROOM = 1024**2  # with less than this left, a vague error while writing is put down to the disk


class Order(TypedDict):
    """A task as the worker gets it, JSON-able.

    scratch: directory to make, that becomes the current one and takes temporary files; the
        supervisor removes it.
    hidden: modules that it does not see.
    extra: the extra of crosscast that installs what the task needs.
    timeout in seconds, memory in bytes: kept by the supervisor.
    """

    id: str
    module: str
    inputs: dict[str, str]
    options: Mapping[str, Any]
    out: str
    log: str
    scratch: str
    hidden: Sequence[str]
    extra: str
    timeout: float
    memory: int


class Report(TypedDict):
    """What the worker says of its end, where it gets to say it. result: a StageResult's fields."""

    status: str
    message: str
    fix: str
    exit_code: int
    result: dict[str, Any] | None


def work(order: Order, descriptor: int, parent: int) -> NoReturn:
    """Run one task, write its Report to the descriptor, end the process.

    parent: the process with which this one dies.
    """
    this = os.getpid()
    try:
        report = _attempt(order, parent)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # full disk, closed by the stage
                stream.flush()
        if os.getpid() == this:  # and not a fork that the stage let run on
            _write(descriptor, report)
    finally:
        os._exit(0 if os.getpid() == this else 1)  # no teardown: it costs time, and can crash


def _attempt(order: Order, parent: int) -> Report:
    try:
        _isolate(order, parent)
        return said("ok", result=asdict(_run(order)))
    except BaseException as error:  # noqa: BLE001  every end is to be told
        sys.stderr.write(f"{TRACEBACK}\n{traceback.format_exc()}")
        return _explained(error, order)


def _isolate(order: Order, parent: int) -> None:
    os.setsid()
    isolation.become_subreaper()  # orphans stay below their task's worker while it lives
    isolation.die_with_parent(parent)
    isolation.no_core_files()
    _redirect(Path(order["log"]))
    Path(order["scratch"]).mkdir(exist_ok=True)
    os.chdir(order["scratch"])
    os.environ.update(dict.fromkeys(("TMPDIR", "TMP", "TEMP"), order["scratch"]))
    tempfile.tempdir = None
    sys.argv = [order["module"]]
    for caught in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(caught, signal.SIG_DFL)
    isolation.hide(order["hidden"])
    _seed()


def _redirect(log: Path) -> None:
    """Send descriptors 1 and 2 to the log, whoever writes to them, and crashes' tracebacks."""
    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, descriptor in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(source, descriptor)
    os.close(nothing)
    sys.stdout, sys.stderr = _lines_to(1), _lines_to(2)
    faulthandler.enable(file=target)  # a descriptor of its own: stages may play with 2


def _lines_to(descriptor: int) -> TextIO:
    """A stream that is buffered by the line, so that a sudden end loses none."""
    return os.fdopen(descriptor, "w", 1, "utf-8", "backslashreplace", closefd=False)


def _seed() -> None:
    import numpy as np

    random.seed(0)
    np.random.seed(0)


def _run(order: Order) -> StageResult:
    stage = importlib.import_module(order["module"])
    result = stage.run(
        inputs={name: Path(path) for name, path in order["inputs"].items()},
        options=order["options"],
        out=Path(order["out"]),
    )
    if not isinstance(result, StageResult):
        raise TypeError(f"{order['module']}.run returned {result!r}, not a StageResult")
    json.dumps(asdict(result))  # what is not JSON-able is the stage's mistake: say so here
    return result


def said(
    status: str,
    message: str = "",
    *,
    fix: str = "",
    exit_code: int = StageError.exit_code,
    result: dict[str, Any] | None = None,
) -> Report:
    """A report, with what most have in common."""
    return Report(status=status, message=message, fix=fix, exit_code=exit_code, result=result)


def _explained(error: BaseException, order: Order) -> Report:
    """The report of what went wrong, from the cause that says the most to the one raised."""
    chain = list(_chain(error))
    full = _disk_full(chain, order)
    if full:
        return full
    if any(isinstance(one, MemoryError) for one in chain):
        return said("memory", f"ran out of memory at {place(error)}")
    if isinstance(error, CrosscastError):
        return said("error", error.message, fix=error.fix, exit_code=error.exit_code)
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return said("exit", f"called sys.exit({code}) at {place(error)}")
    if isinstance(error, ModuleNotFoundError):
        return _not_installed(error, order)
    message = f"{described(error)}\n  at {place(error)}"
    return said("error", message, fix=_network_fix(chain))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _disk_full(chain: list[BaseException], order: Order) -> Report | None:
    for error in chain:
        known = isinstance(error, OSError) and error.errno in _FULL
        # Native code raises errors of its own; some of them quote the system's words.
        if known or os.strerror(errno.ENOSPC) in str(error):
            path = getattr(error, "filename", None) or order["out"]
            break
    else:
        told = isinstance(chain[0], CrosscastError | SystemExit | MemoryError)
        if told or shutil.disk_usage(Path(order["out"]).parent).free > _ROOM:
            return None
        path = order["out"]
    return said(
        "error",
        f"the disk is full while writing {path}",
        fix="free some space there and build again; what was finished is kept",
    )


def _not_installed(error: ModuleNotFoundError, order: Order) -> Report:
    package = f"crosscast[{order['extra']}]" if order["extra"] else error.name
    return said(
        "error",
        f"the module '{error.name}' is not installed (wanted at {place(error)})",
        fix=f"pip install '{package}'",
        exit_code=ToolchainError.exit_code,
    )


def _network_fix(chain: list[BaseException]) -> str:
    for error in chain:
        unreachable = isinstance(error, OSError) and error.errno == errno.ENETUNREACH
        if unreachable or isinstance(error, socket.gaierror):
            return "steps run without network: fetch the file first, and name its path instead"
    return ""


def _write(descriptor: int, report: Report) -> None:
    data = json.dumps(report).encode()
    while data:
        data = data[os.write(descriptor, data) :]


def _fresh() -> NoReturn:
    """The entry of a fresh interpreter: the order on stdin, the report's descriptor in argv."""
    isolation.cut_network()
    work(json.load(sys.stdin), int(sys.argv[1]), os.getppid())


if __name__ == "__main__":
    _fresh()
