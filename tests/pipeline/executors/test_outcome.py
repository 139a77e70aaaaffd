from __future__ import annotations

from pathlib import Path

from crosscast.pipeline.executors.outcome import (
    Limits,
    Task,
    gibibytes,
    last_lines,
    outcome,
    signal_name,
)
from crosscast.pipeline.toolchain import CORE
from crosscast.pipeline.worker.main import said
from crosscast.pipeline.worker.supervisor import Ending

DUMP = """\
converting
Fatal Python error: Segmentation fault

Thread 0x01 (most recent call first):
  File "other.py", line 1 in idle

Current thread 0x02 (most recent call first):
  File "a.py", line 5 in inner
  File "b.py", line 6 in outer

Extension modules: x, y (total: 2)
"""


def a_task(log: Path) -> Task:
    return Task(
        id="convert",
        module="m",
        toolchain=CORE,
        inputs={},
        options={},
        out=log.parent,
        log=log,
        limits=Limits(timeout=5, memory=2 * 1024**3),
    )


def ended(code: int, killed: str = "", report=None) -> Ending:
    return Ending(id="convert", killed=killed, code=code, report=report, seconds=1.5, peak=7)


def test_a_crash_to_the_letter(tmp_path):
    log = tmp_path / "log"
    log.write_text(DUMP)
    found = outcome(a_task(log), ended(-11))
    assert found.message == (
        "died of SIGSEGV (Segmentation fault); the innermost Python frames:\n"
        '    File "a.py", line 5 in inner\n'
        '    File "b.py", line 6 in outer\n'
        "  it said last:\n"
        "    converting\n"
        f"  whole log: {log}"
    )
    assert (found.status, found.exit_code, found.seconds, found.peak) == ("signal", 1, 1.5, 7)


def test_a_missing_log_is_no_trouble(tmp_path):
    found = outcome(a_task(tmp_path / "log"), ended(3))
    assert found.status == "exit"
    assert found.message == (
        f"its process ended by itself (code 3), no result\n  whole log: {tmp_path / 'log'}"
    )


def test_what_the_worker_said_counts_more_than_how_it_was_killed(tmp_path):
    report = said("ok", result={"dependencies": ["/a.py"], "notes": {"n": 1}})
    found = outcome(a_task(tmp_path / "log"), ended(0, "timeout", report))
    assert (found.status, found.message) == ("ok", "")
    assert found.result.dependencies == ("/a.py",)


def test_small_texts():
    assert signal_name(9) == "SIGKILL (Killed)"
    assert signal_name(1000) == "signal 1000"
    assert gibibytes(3 * 1024**3 // 2) == "1.50 GiB"
    assert last_lines("\n".join("abcdefghijklm")).split() == list("fghijklm")
