"""The command line: exit codes and texts. No step is run."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer

from crosscast.pipeline import build as work
from crosscast.pipeline import cli
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ParityError, StageError, ToolchainError
from crosscast.pipeline.events import BuildFinished, Message, Subscriber, TargetFinished

COMMANDS = (
    *("init", "check", "plan", "build", "verify", "explain", "show", "targets", "doctor"),
    *("release", "diff", "promote", "rollback", "releases", "keygen", "pull", "devices"),
)
CONFIG = """
model: tiny
version: 1.0.0
source: {torch: net.py:build}
inputs:
  x: {shape: [batch, 3], dtype: float32}
targets: {onnx: {}, tflite-fp32: {}}
"""

Say = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def build(): ...\n")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def failing(error: BaseException) -> Callable[..., NoReturn]:
    def raising(*_: Any, **__: Any) -> NoReturn:
        raise error

    return raising


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(command: str, capsys: Say) -> None:
    assert cli.run([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Example: crosscast {command}" in said


def test_help_lists_every_command(capsys: Say) -> None:
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    assert [command for command in COMMANDS if command not in said] == []
    assert {entry.callback.__name__ for entry in cli.app.registered_commands if entry.callback} == {
        *COMMANDS
    }


def test_examples_in_help_name_what_there_is(config: Path, capsys: Say) -> None:
    root = Path(__file__).parents[2]
    for entry in cli.app.registered_commands:
        words = str(entry.epilog).removeprefix("Example: crosscast ").split()
        for word in words:
            if word.startswith("configs/"):
                assert list(root.glob(word)), word


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bild"], "No such command 'bild'"),
        (["build"], "Missing argument"),
        (["plan", "config.yaml", "two.yaml"], "unexpected extra argument"),
        (["build", "x.yaml", "--jbos", "2"], "No such option: --jbos"),
        (["build", "x.yaml", "--jobs", "0"], "'--jobs' / '-j': Input should be greater than or "),
        (["build", "x.yaml", "--jobs", "many"], "'--jobs' / '-j': Input should be a valid integer"),
        (["build", "no.yaml"], "no.yaml: no such file"),
        (["plan", "no.yaml"], "no.yaml: no such file"),
        (["check", "no.yaml"], "no.yaml: no such file"),
        (["build", "config.yaml", "-t", "onxx"], "config.yaml: no target 'onxx'"),
        (["plan", "config.yaml", "-t", "onxx"], "its targets are onnx, tflite-fp32"),
        (
            ["build", "config.yaml", "--memory", "lots"],
            "expected a size such as '8GiB', got 'lots'",
        ),
        (["show", "."], "not an artifact: it has no manifest.json"),
        (["verify", "nowhere"], "not an artifact: it has no manifest.json"),
        (["explain", "nowhere"], "not an artifact: it has no manifest.json"),
    ],
)
def test_wrong_usage_is_code_2(words: list[str], said: str, config: Path, capsys: Say) -> None:
    assert cli.run(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert "Traceback" not in printed.err + printed.out


def test_without_a_command_there_is_help_and_code_2(capsys: Say) -> None:
    assert cli.run([]) == 2
    printed = capsys.readouterr()
    assert printed.out.lstrip().startswith("Usage: ")
    assert printed.err == ""


def test_a_wrong_config_is_code_2_with_its_line(config: Path, capsys: Say) -> None:
    config.write_text(CONFIG.replace("targets:", "tragets:"))
    assert cli.run(["build", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"{config}:7:1: tragets: unknown key; did you mean 'targets'?" in said
    assert not (config.parent / "artifacts").exists()


def test_check_goes_on_after_a_wrong_config(config: Path, capsys: Say) -> None:
    wrong = config.with_name("wrong.yaml")
    wrong.write_text(CONFIG.replace("net.py:build", "net.py:biuld"))
    assert cli.run(["check", str(wrong), str(config), "absent.yaml"]) == 2
    printed = capsys.readouterr()
    assert printed.out == f"{config}: ok\n"
    assert "did you mean 'build'?" in printed.err
    assert "absent.yaml: no such file" in printed.err


def test_check_finds_what_only_planning_sees(config: Path, capsys: Say) -> None:
    config.write_text(CONFIG.replace("tflite-fp32: {}", "onnx-fp16: {from: onnx, layout: nhwc}"))
    assert cli.run(["check", str(config)]) == 2
    assert "targets.onnx-fp16.layout: differs" in capsys.readouterr().err


def test_plan_says_what_would_run_and_why(config: Path, capsys: Say) -> None:
    assert cli.run(["plan", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run     export exported_program  (first build)"
    assert any(line.startswith("maybe   verify tflite-fp32  (after ") for line in lines)


def test_plan_as_json_has_an_object_a_step(config: Path, capsys: Say) -> None:
    assert cli.run(["plan", str(config), "--json", "-t", "onnx", "--force"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert entries[0] == {"step": "export exported_program", "action": "run", "reason": "forced"}
    assert "package onnx" in {entry["step"] for entry in entries}


def fake_build(code: int) -> Callable[..., int]:
    def build(config: Config, *, emit: Subscriber, **_: Any) -> int:
        emit(Message(text="hello"))
        emit(TargetFinished(target="onnx", status="passed", reason="", artifact="out/onnx"))
        emit(TargetFinished(target="tflite-fp32", status="failed", reason="12 dB", artifact=""))
        emit(BuildFinished(code=code, seconds=1.25, ran=3, cached=4))
        return code

    return build


@pytest.mark.parametrize("code", [0, 1, 3, 4])
def test_build_ends_with_the_builds_code(
    code: int, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(work, "build", fake_build(code))
    assert cli.run(["build", str(config)]) == code
    assert capsys.readouterr().out.splitlines() == [
        "note    hello",
        "onnx         passed  -> out/onnx",
        "tflite-fp32  failed: 12 dB  (nothing delivered)",
        "3 steps run, 4 cached, 1.2 s",
    ]


def test_build_as_json_prints_events_only(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(work, "build", fake_build(4))
    assert cli.run(["build", str(config), "--json"]) == 4
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == [
        "message",
        "target_finished",
        "target_finished",
        "build_finished",
    ]
    assert events[-1]["code"] == 4


def test_every_config_is_read_before_any_is_built(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(work, "build", failing(AssertionError("built")))
    assert cli.run(["build", str(config), "absent.yaml"]) == 2


def test_the_worst_code_of_several_configs_is_the_builds(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    codes = iter([4, 1])
    monkeypatch.setattr(work, "build", lambda *_, **__: next(codes))
    assert cli.run(["build", str(config), str(config)]) == 1


@pytest.mark.parametrize(
    ("error", "code"), [(StageError, 1), (ToolchainError, 3), (ParityError, 4)]
)
def test_errors_become_text_and_their_code(
    error: Any, code: int, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(work, "build", failing(error("it broke", fix="mend it")))
    assert cli.run(["build", str(config)]) == code
    assert capsys.readouterr().err == "error: it broke\n  fix: mend it\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupt_is_code_130(
    error: BaseException, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(work, "build", failing(error))
    assert cli.run(["build", str(config)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_is_code_70_with_its_traceback_in_a_log(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(work, "build", failing(RuntimeError("how odd")))
    assert cli.run(["build", str(config)]) == 70
    printed = capsys.readouterr()
    assert "error: this is a bug in crosscast: RuntimeError: how odd" in printed.err
    assert "Traceback" not in printed.err + printed.out
    (log,) = tmp_path.glob("crosscast-*.log")
    assert str(log) in printed.err
    assert "Traceback" in log.read_text()
    assert "RuntimeError: how odd" in log.read_text()


def test_a_full_disk_is_no_bug(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/disk/file")
    monkeypatch.setattr(work, "preview", failing(full))
    assert cli.run(["plan", str(config)]) == 1
    assert "no space left on the disk of /disk/file" in capsys.readouterr().err


def test_a_bug_is_told_where_there_is_no_place_for_a_log(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(config.parent / "absent"))
    monkeypatch.setattr(work, "preview", failing(RuntimeError("how odd")))
    assert cli.run(["plan", str(config)]) == 70
    said = capsys.readouterr().err
    assert "RuntimeError: how odd" in said
    assert "Traceback" in said


def test_settings_come_from_options_and_limits(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    seen = {}

    def build(config: Config, **given: Any) -> int:
        seen.update(given)
        return 0

    monkeypatch.setattr(work, "build", build)
    config.write_text(CONFIG + "limits: {timeout: 7, memory: 2GiB}\n")
    words = ["-t", "onnx", "-j", "3", "--memory", "4GiB", "--fail-fast", "--force", "-o", "there"]
    assert cli.run(["build", str(config), *words]) == 0
    settings = seen["settings"]
    assert (settings.jobs, settings.memory, settings.timeout) == (3, 4 * 2**30, 7)
    assert (settings.step_memory, settings.keep_going, settings.force) == (2 * 2**30, False, True)
    assert (settings.artifacts, seen["only"]) == (Path("there"), ["onnx"])


def test_explain_prints_the_verdict_and_the_layer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"status": "failed", "reason": "12 dB", "lines": ["layer 'x'", "  net.py:3"]}
    monkeypatch.setattr(work, "explain", lambda *_, **__: found)
    assert cli.run(["explain", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: failed: 12 dB\nlayer 'x'\n  net.py:3\n"
    assert cli.run(["explain", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_verify_prints_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(work, "verify", lambda *_, **__: {"status": "failed", "reason": "12 dB"})
    assert cli.run(["verify", str(tmp_path)]) == 4
    assert capsys.readouterr().out == f"{tmp_path}: failed: 12 dB\n"
    assert cli.run(["verify", str(tmp_path), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["status"] == "failed"
    monkeypatch.setattr(work, "verify", lambda *_, **__: {"status": "passed", "reason": ""})
    assert cli.run(["verify", str(tmp_path)]) == 0


def test_devices_lists_those_of_a_config_too(config: Path, capsys: Say) -> None:
    device = "kiosk: {summary: Ours, like: microcontroller, targets: [onnx]}"
    config.write_text(f"{CONFIG}release: {{devices: {{{device}}}}}\n")
    assert cli.run(["devices", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[-3:]] == [
        "kiosk                Ours",
        "onnx",
        "limits: static, integer, size 1 MiB",
    ]
    assert cli.run(["devices"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:-3]


def test_targets_lists_every_target(capsys: Say) -> None:
    from crosscast.targets import TARGETS

    assert cli.run(["targets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TARGETS)


def test_doctor_lists_toolchains_and_targets(capsys: Say) -> None:
    assert cli.run(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "toolchains\n" in said
    assert "targets\n" in said


def test_a_cache_that_cannot_be_is_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSCAST_CACHE", str(tmp_path / "file"))
    assert cli.run(["targets"]) == 2
    assert "cannot write" in capsys.readouterr().err
