"""Jobs as processes, and what their logs say of their ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up import Machine

from crosscast.pipeline.config.load import load
from crosscast.pipeline.schedule import jobs
from crosscast.pipeline.schedule.jobs import Ending, Process, ending, planned, published

RELEASED = {"event": "released", "code": 0, "said": "m 1.0.1 is published", "version": "1.0.1"}


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are Python code, in place of commands."""
    monkeypatch.setattr(jobs, "CROSSCAST", (sys.executable, "-u", "-c"))


def waited(condition: Callable[[], object]) -> bool:
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    ("policy", "name", "expected"),
    [
        ("", "stable", "/artifacts/m@stable"),
        ("registry: s3://bucket/x/", "1.0.0", "s3://bucket/x/m@1.0.0"),
        ("registry: shelf, channel: beta", "", "{root}/shelf/m@beta"),
        ("registry: shelf", "", "{root}/shelf/m"),
    ],
)
def test_what_is_published_has_a_name(
    tmp_path: Path, policy: str, name: str, expected: str
) -> None:
    verify = f"cron: '0 5 * * *'{f', release: {name}' if name else ''}"
    path = Machine(tmp_path, "2026-01-01", until="2026-01-02").config(f"{{verify: {{{verify}}}}}")
    if policy:
        path.write_text(path.read_text().replace("hooks: {}", policy))
    found = published(load(path))
    assert found == expected.format(root=tmp_path).removeprefix("/" if not policy else "")
    (job,) = planned(load(path))
    assert job.told == ("verify", found)


def test_a_process_has_its_log(tmp_path: Path, python: None) -> None:
    log = tmp_path / "logs" / "x.log"
    code = "import os, sys; print(os.environ['CROSSCAST_LOG']); sys.exit('error: no')"
    process = Process([code], log=log)
    assert waited(lambda: process.poll() is not None)
    assert process.poll() == 1
    assert log.read_text() == f"{log}\nerror: no\n"


def test_a_process_is_told_to_stop(tmp_path: Path, python: None) -> None:
    log = tmp_path / "x.log"
    code = (
        "import time\nprint('up')\ntry:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('interrupted')"
    )
    process = Process([code], log=log)
    assert waited(lambda: "up" in log.read_text())
    assert process.stop() == 0
    assert "interrupted" in log.read_text()


def test_a_process_that_does_not_stop_is_ended(
    tmp_path: Path, python: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", 0.3)
    log = tmp_path / "x.log"
    code = "import signal, time\nsignal.signal(2, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)"
    process = Process([code], log=log)
    assert waited(lambda: "up" in log.read_text())
    assert process.stop() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no death signal")
def test_a_process_ends_with_what_has_started_it(tmp_path: Path) -> None:
    log, pid = tmp_path / "x.log", os.fork()
    if pid == 0:
        jobs.CROSSCAST = (sys.executable, "-u", "-c")  # type: ignore[assignment]
        Process(["import os, time; print(os.getpid()); time.sleep(60)"], log=log)
        time.sleep(60)
        os._exit(0)
    assert waited(lambda: log.exists() and log.read_text().endswith("\n"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    job = int(log.read_text())
    assert waited(lambda: not _runs(job))


def _runs(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("lines", "code", "expected"),
    [
        ([RELEASED], 0, Ending(status="published", code=0, version="1.0.1")),
        ([{**RELEASED, "version": ""}], 0, Ending(status="nothing changed", code=0)),
        (
            [{"event": "hook_failed", "hook": "on_success.webhook", "why": "no"}, RELEASED],
            0,
            Ending(status="published", code=0, version="1.0.1", hooks=("on_success.webhook: no",)),
        ),
        (
            [{"event": "released", "said": "nothing is released", "version": ""}],
            4,
            Ending(status="failed", code=4, said="nothing is released"),
        ),
        (
            ["[1, 2]", '{"half', "error: it is taken", "  fix: --bump"],
            5,
            Ending(status="failed", code=5, said="it is taken"),
        ),
        (["noise"], -9, Ending(status="failed", code=-9, said="it was killed by SIGKILL")),
        ([], 70, Ending(status="failed", code=70)),
    ],
)
def test_how_a_release_has_ended(
    tmp_path: Path, lines: list[object], code: int, expected: Ending
) -> None:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (tmp_path / "log").write_text("".join(f"{line}\n" for line in text))
    assert ending("release", code, tmp_path / "log") == expected


def test_how_a_verification_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"onnx  failed: SNR\n\xff2 of 3 passed\n\n")
    assert ending("verify", 0, log) == Ending(status="passed", code=0)
    assert ending("verify", 4, log).said == "\ufffd2 of 3 passed"
    assert ending("verify", 4, tmp_path / "absent") == Ending(status="failed", code=4)


def test_of_a_long_log_the_end_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: early\n" + "x\n" * jobs.TAIL + json.dumps(RELEASED) + "\n")
    assert ending("release", 0, log).version == "1.0.1"
