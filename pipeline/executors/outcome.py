"""Tasks, and how they end: each end has a name, and a message for people."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.toolchain import Toolchain
from crosscast.pipeline.worker.main import TRACEBACK, Report
from crosscast.pipeline.worker.supervisor import Ending

Status = Literal["ok", "error", "exit", "signal", "timeout", "memory", "cancelled"]

_TAIL = 64 * 1024
_LINES = 8
_WIDTH = 300
_FRAMES = 4
_DUMP = re.compile(rf"^({TRACEBACK}$|Fatal Python error: |(Current t|T)hread 0x)", re.MULTILINE)
_CURRENT = re.compile(r"^Current thread .*\n((?:  File .*\n?)+)", re.MULTILINE)
_MEMORY_FIX = "raise the step's limit (limits: memory), or give it fewer or smaller samples"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """timeout: seconds from the start of the process. memory: bytes, PSS of the process tree."""

    timeout: float
    memory: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """A stage to run.

    id: unique among the tasks that are under way.
    module: the stage's; its `run` is called with `inputs`, `options` and `out`.
    out: a directory that is there; a scratch directory is made beside it for the while.
    log: file that gets all output.
    """

    id: str
    module: str
    toolchain: Toolchain
    inputs: Mapping[str, Path]
    options: Mapping[str, Any]
    out: Path
    log: Path
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a task ended.

    status: "error": it raised; "exit": it called sys.exit or ended without a result; "signal": it
        crashed or was killed from outside; "timeout", "memory": it went over a limit.
    message: for people, one or a few lines; empty when ok.
    exit_code: the CrosscastError's, else 1; means nothing when ok.
    seconds, peak (bytes): 0 where the task did not get to start.
    """

    task: str
    status: Status
    message: str = ""
    exit_code: int = StageError.exit_code
    fix: str = ""
    result: StageResult | None = None
    seconds: float = 0.0
    peak: int = 0
    log: Path


def outcome(task: Task, ending: Ending) -> Outcome:
    """The outcome of a task whose worker ended so."""
    status, message, fix = _named(task, ending)
    report = ending["report"]
    return Outcome(
        task=task.id,
        status=status,
        message=message,
        fix=fix,
        exit_code=report["exit_code"] if report else StageError.exit_code,
        result=_result(report) if report else None,
        seconds=ending["seconds"],
        peak=ending["peak"],
        log=task.log,
    )


def signal_name(number: int) -> str:
    """The signal for people: "SIGSEGV (Segmentation fault)"."""
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


def gibibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1024**3:.2f} GiB"


def last_lines(text: str) -> str:
    """The last lines of some output, indented; the traceback of its end left out."""
    dump = _DUMP.search(text)
    lines = [line for line in text[: dump.start() if dump else None].splitlines() if line.strip()]
    return "\n".join(f"    {line[:_WIDTH]}" for line in lines[-_LINES:])


def _named(task: Task, ending: Ending) -> tuple[Status, str, str]:
    """Status, message and fix."""
    report, code = ending["report"], ending["code"]
    if report:
        return _reported(task, report)
    if ending["killed"] == "timeout":
        return "timeout", *_timed_out(task)
    if ending["killed"] == "memory":
        used, limit = gibibytes(ending["peak"]), gibibytes(task.limits.memory)
        message = f"took {used} of memory, over its limit of {limit}, and was killed"
        return "memory", _with_log(message, task), _MEMORY_FIX
    if code < 0:
        return "signal", *_crashed(task, -code)
    return "exit", _with_log(f"its process ended by itself (code {code}), no result", task), ""


def _reported(task: Task, report: Report) -> tuple[Status, str, str]:
    status: Any = report["status"]
    message, fix = report["message"], report["fix"]
    if status in ("exit", "memory"):
        message = _with_log(message, task)
    return status, message, fix or (_MEMORY_FIX if status == "memory" else "")


def _timed_out(task: Task) -> tuple[str, str]:
    message = f"did not end within {task.limits.timeout:g} s and was killed"
    frames = _frames(_tail(task.log))
    if frames:
        message += f"; it was at:\n{frames}"
    return _with_log(message, task), "if it only needs longer, raise the limit (limits: timeout)"


def _crashed(task: Task, number: int) -> tuple[str, str]:
    message = f"died of {signal_name(number)}"
    frames = _frames(_tail(task.log))
    if frames:
        message += f"; the innermost Python frames:\n{frames}"
    outside = number == signal.SIGKILL
    fix = "if nobody killed it, the system ran out of memory: build with fewer --jobs"
    return _with_log(message, task), fix if outside else ""


def _with_log(message: str, task: Task) -> str:
    lines = last_lines(_tail(task.log))
    said = f"\n  it said last:\n{lines}" if lines else ""
    return f"{message}{said}\n  whole log: {task.log}"


def _frames(text: str) -> str:
    """The innermost frames of the thread that crashed, as faulthandler wrote them."""
    found = _CURRENT.findall(text)
    return "\n".join(f"  {line}" for line in found[-1].splitlines()[:_FRAMES]) if found else ""


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _result(report: Report) -> StageResult | None:
    fields = report["result"]
    if fields is None:
        return None
    return StageResult(dependencies=tuple(fields["dependencies"]), notes=fields["notes"])
