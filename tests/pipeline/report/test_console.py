from __future__ import annotations

import io
import json
from collections.abc import Iterable

import pytest

from crosscast.pipeline.events import (
    BuildFinished,
    Event,
    Message,
    StepCached,
    StepFailed,
    StepFinished,
    StepSkipped,
    StepStarted,
    TargetFinished,
)
from crosscast.pipeline.report.console import (
    JsonLines,
    LiveConsole,
    PlainLines,
    describe,
    summary,
)

STARTED = StepStarted(step="convert onnx", reason="opset 17 → 18")
CACHED = StepCached(step="export")
FINISHED = StepFinished(step="convert onnx", seconds=1.26, peak=300 * 2**20, notes={})
FAILED = StepFailed(
    step="convert onnx",
    status="signal",
    message="died of SIGSEGV\n  at here",
    fix="mend it",
    log="/logs/x.log",
    repeat="python /repro/run.py",
    size=3 * 2**20,
)
SKIPPED = StepSkipped(step="verify onnx", because="convert onnx")
ENDED = TargetFinished(target="onnx", status="passed", reason="120 dB", artifact="out/onnx")
ALL = (STARTED, CACHED, FINISHED, FAILED, SKIPPED, Message(text="installing x"), ENDED)


def plain(events: Iterable[Event], *, verbose: bool) -> list[str]:
    stream = io.StringIO()
    with PlainLines(stream, verbose=verbose) as show:
        for event in events:
            show(event)
    return stream.getvalue().splitlines()


def test_plain_lines_say_what_ended() -> None:
    assert plain(ALL, verbose=False) == [
        "done    convert onnx  1.3 s, 300 MiB",
        "FAILED  convert onnx [signal]: died of SIGSEGV",
        "  at here",
        "        fix: mend it",
        "        log: /logs/x.log",
        "        repeat it alone (3.0 MiB): python /repro/run.py",
        "note    installing x",
    ]


def test_verbose_lines_say_why_as_well() -> None:
    lines = plain(ALL, verbose=True)
    assert lines[:2] == ["run     convert onnx  (opset 17 → 18)", "cached  export"]
    assert "skip    verify onnx  (because of convert onnx)" in lines


def test_a_note_with_a_reason_is_shown() -> None:
    notes = {"exporter": "torchscript", "reason": "torch.export cannot"}
    event = StepFinished(step="export", seconds=0, peak=0, notes=notes)
    assert describe(event, verbose=False).splitlines()[1:] == ["        note: torch.export cannot"]


def test_a_failure_without_a_fix_has_no_line_for_it() -> None:
    event = StepFailed(step="a", status="error", message="broke", fix="", log="x.log")
    assert describe(event, verbose=False) == "FAILED  a [error]: broke\n        log: x.log"


def test_json_lines_hold_every_event_and_field() -> None:
    stream = io.StringIO()
    with JsonLines(stream) as show:
        for event in (*ALL, BuildFinished(code=1, seconds=2.5, ran=1, cached=2)):
            show(event)
    read = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [entry["event"] for entry in read] == [
        "step_started",
        "step_cached",
        "step_finished",
        "step_failed",
        "step_skipped",
        "message",
        "target_finished",
        "build_finished",
    ]
    assert read[0] == {"event": "step_started", "step": "convert onnx", "reason": "opset 17 → 18"}
    assert read[3]["log"] == "/logs/x.log"
    assert read[-1] == {
        "event": "build_finished",
        "code": 1,
        "seconds": 2.5,
        "ran": 1,
        "cached": 2,
    }


def test_the_summary_says_how_to_repeat_a_failed_verdict() -> None:
    wrong = TargetFinished(
        target="onnx", status="failed", reason="3 dB", artifact="", repeat="python run.py"
    )
    assert summary([wrong]).splitlines() == [
        "onnx  failed: 3 dB  (nothing delivered)",
        "      repeat it alone: python run.py",
    ]


def test_the_summary_lines_up() -> None:
    lost = TargetFinished(
        target="tflite-int8", status="error", reason="no calibration", artifact=""
    )
    assert summary([ENDED, lost]).splitlines() == [
        "onnx         passed: 120 dB  -> out/onnx",
        "tflite-int8  error: no calibration  (nothing delivered)",
    ]
    assert summary([]) == ""


def test_live_console_prints_what_ended_and_forgets_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with LiveConsole() as show:
        show(STARTED)
        assert list(show.running) == ["convert onnx"]
        assert "convert onnx" in str(show._running())
        show(FAILED)
        assert not show.running
    said = capsys.readouterr().out
    assert "FAILED  convert onnx [signal]: died of SIGSEGV" in said


def test_live_console_takes_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveConsole() as show:
        show(Message(text="shape [batch, 3] and [/red] stay"))
    assert "shape [batch, 3] and [/red] stay" in capsys.readouterr().out
