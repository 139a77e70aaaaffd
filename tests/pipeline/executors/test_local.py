from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.executors import local
from crosscast.pipeline.executors.local import LocalExecutor, Outcome
from crosscast.pipeline.toolchain import Toolchain

HERE = Path(__file__).parent
PATIENCE = 60.0
MIB = 1024**2


def eventually(holds: Any) -> bool:
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def result(outcome: Outcome) -> dict[str, Any]:
    assert outcome.status == "ok", outcome
    assert outcome.result is not None
    return dict(outcome.result.notes)


def supervisor_of(executor: LocalExecutor) -> int:
    (parent,) = executor.parents.values()
    assert parent.process is not None
    return parent.process.pid


def out_of(executor: LocalExecutor, name: str) -> Path:
    (parent,) = executor.parents.values()
    return parent.tasks[name].out


def wait_ok(executor: LocalExecutor) -> Outcome:
    outcome = executor.wait(PATIENCE)
    assert outcome is not None
    assert outcome.status == "ok", outcome
    return outcome


def test_a_task_that_goes_well(run, tmp_path):
    outcome = run("write", text="hello")
    assert outcome.status == "ok"
    assert outcome.message == ""
    assert outcome.result.dependencies == (str(HERE / "conftest.py"),)
    assert (tmp_path / "work/task/file").read_text() == "hello"
    assert outcome.seconds > 0
    assert outcome.peak > 0


def test_nothing_under_way_is_nothing_to_wait_for(executor):
    assert executor.wait() is None


def test_waiting_gives_up_in_time(executor, make):
    executor.submit(make("hang"))
    assert executor.wait(0) is None
    assert executor.wait(0.1) is None


def test_what_a_stage_finds_around_it(run, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("HF_TOKEN", "hidden")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    notes = result(run("surroundings"))
    assert "hidden" not in notes["environment"].values()
    assert "hidden" not in notes["first environment"]
    assert notes["environment"]["OMP_NUM_THREADS"] == "3"
    assert notes["stdin"] == ""
    assert notes["core"] == 1
    assert notes["leader"]
    assert Path(notes["cwd"]).parent == tmp_path / "work"
    assert notes["temporary"].startswith(notes["cwd"])
    assert [entry.name for entry in (tmp_path / "work").iterdir()] == ["task"]


def test_every_worker_draws_the_same_numbers(run):
    first, second = result(run("surroundings", name="a")), result(run("surroundings", name="b"))
    assert first["random"] == second["random"]
    assert first["hash"] == second["hash"]


def test_a_segfault_is_named_and_located(run, tmp_path):
    outcome = run("segfault")
    assert outcome.status == "signal"
    assert outcome.message.startswith("died of SIGSEGV (Segmentation fault)")
    assert 'fake_stages.py", line' in outcome.message
    assert "in segfault" in outcome.message
    assert "    about to crash" in outcome.message
    assert str(tmp_path / "logs/task.log") in outcome.message
    assert not list(tmp_path.rglob("core*"))


def test_an_abort_is_named(run):
    assert run("abort").message.startswith("died of SIGABRT (Aborted); the innermost")


def test_a_kill_from_outside_hints_at_memory(run):
    outcome = run("killed")
    assert outcome.status == "signal"
    assert outcome.message.startswith("died of SIGKILL (Killed)")
    assert "ran out of memory" in outcome.fix


@pytest.mark.parametrize("do", ["hang", "hang_in_c"])
def test_a_hang_is_ended_and_located(run, do):
    outcome = run(do, timeout=1.0)
    assert outcome.status == "timeout"
    assert outcome.message.startswith("did not end within 1 s and was killed; it was at:")
    assert f"in {do}" in outcome.message
    assert outcome.seconds >= 1.0


def test_a_hang_that_ignores_signals_is_ended(run):
    assert run("hang_deaf", timeout=0.3).status == "timeout"


@pytest.mark.parametrize("do", ["eat", "eat_below"])
def test_eating_memory_is_ended(run, do):
    outcome = run(do, memory=256 * MIB)
    assert outcome.status == "memory"
    assert outcome.message.startswith("took 0.")
    assert "over its limit of 0.25 GiB" in outcome.message
    assert 256 * MIB < outcome.peak < 2048 * MIB
    assert outcome.fix


def test_the_peak_is_recorded(run):
    assert 100 * MIB < run("eat", mib=128, memory=4096 * MIB, timeout=2.0).peak < 512 * MIB


def test_a_memory_error_counts_as_memory(run):
    outcome = run("raise_memory_error")
    assert outcome.status == "memory"
    assert "ran out of memory at fake_stages.py:" in outcome.message


@pytest.mark.parametrize("code", [3, 0, None, "bad model"])
def test_sys_exit_is_an_exit(run, code):
    outcome = run("leave", code=code)
    assert outcome.status == "exit"
    shown = "" if code is None else repr(code)
    assert outcome.message.startswith(f"called sys.exit({shown}) at fake_stages.py:")
    assert "something is not right" in outcome.message


@pytest.mark.parametrize("code", [0, 7])
def test_a_sudden_exit_is_no_success(run, code):
    outcome = run("leave_at_once", code=code)
    assert outcome.status == "exit"
    assert f"(code {code}), no result" in outcome.message
    assert "the converter's last words" in outcome.message


def test_a_fork_that_runs_on_does_not_answer(run):
    assert result(run("fork_and_return")) == {"in": "parent"}


def test_all_output_is_in_the_log(run, tmp_path):
    assert run("shout").status == "ok"
    log = (tmp_path / "logs/task.log").read_text()
    assert len(log) > 20 * 1_000_000
    assert log.endswith("from a sub-process\n")


@pytest.mark.parametrize(
    ("do", "status"),
    [
        ("leave_processes", "ok"),
        ("leave_processes_and_crash", "signal"),
        ("leave_processes_and_hang", "timeout"),
    ],
)
def test_nothing_outlives_its_step(executor, run, left, do, status):
    assert run(do, timeout=0.5).status == status
    assert left() == [supervisor_of(executor)]


def test_a_step_does_not_end_another_ones_processes(executor, make, left):
    executor.submit(make("leave_processes_and_hang", name="long"))
    assert eventually((out_of(executor, "long") / "hanging").exists)
    alive = 6  # the warm parent, the worker, and its four
    assert eventually(lambda: len(left()) == alive)
    executor.submit(make("leave_processes", name="short"))
    assert wait_ok(executor).task == "short"
    assert len(left()) == alive


def test_no_network(run):
    outcome = run("connect", port=443)
    assert outcome.status == "error"
    assert "OSError" in outcome.message
    assert outcome.fix.startswith("steps run without network")


def test_no_names_are_resolved(run):
    outcome = run("resolve")
    assert outcome.message.startswith("gaierror")
    assert outcome.fix.startswith("steps run without network")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs network namespaces")
def test_servers_on_the_host_are_out_of_reach(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert run("reach", port=server.getsockname()[1]).status == "error"


def test_a_stage_can_talk_to_itself(run):
    assert result(run("talk_to_itself")) == {"heard": "hello"}


def test_a_full_disk_is_said_whatever_it_is_wrapped_in(run):
    outcome = run("fill_disk")
    assert outcome.status == "error"
    assert outcome.message.startswith("the disk is full while writing ")
    assert "free some space" in outcome.fix


def test_a_full_disk_in_native_code(run):
    assert run("fill_disk_natively").message.startswith("the disk is full while writing ")


def test_errors_of_ours_are_passed_on(run, tmp_path):
    outcome = run("user_error")
    assert (outcome.status, outcome.message) == ("error", "operator Foo is not supported")
    assert (outcome.fix, outcome.exit_code) == ("use Bar", 1)
    assert "Traceback" in (tmp_path / "logs/task.log").read_text()


def test_other_errors_are_cut_and_located(run, tmp_path):
    outcome = run("plain_error")
    assert outcome.message.startswith("ValueError: line 0\nline 1\n")
    assert "line 5" not in outcome.message
    assert "at fake_stages.py:" in outcome.message
    assert "line 19" in (tmp_path / "logs/task.log").read_text()


def test_a_missing_module_names_the_extra(run):
    outcome = run("lacks_module")
    assert outcome.message.startswith("the module 'not_there_at_all' is not installed")
    assert (outcome.fix, outcome.exit_code) == ("pip install 'crosscast[tflite]'", 3)


def test_notes_that_are_no_json_are_an_error(run):
    assert run("bad_notes").message.startswith("TypeError: ")


def test_many_tasks_at_once(executor, make):
    for number in range(24):
        executor.submit(make("nap", name=f"t{number}", seconds=0.05))
    assert {wait_ok(executor).task for _ in range(24)} == {f"t{number}" for number in range(24)}
    assert executor.wait() is None


def test_a_crash_leaves_bystanders_alone(executor, make):
    executor.submit(make("nap", name="good", seconds=0.3))
    for number in range(4):
        executor.submit(make("segfault", name=f"bad{number}"))
    outcomes = {outcome.task: outcome.status for outcome in (executor.wait() for _ in range(5))}
    assert outcomes == {"good": "ok", **{f"bad{number}": "signal" for number in range(4)}}


def test_large_options_do_not_block(executor, make):
    executor.submit(make("write", text="x" * 2_000_000))
    assert (wait_ok(executor)).task == "task"


def test_one_parent_a_toolchain_warmed_ahead(executor, make):
    other = Toolchain(name="other")
    executor.warm([other])
    warmed = supervisor_of(executor)
    executor.submit(make("write", toolchain=other))
    wait_ok(executor)
    assert supervisor_of(executor) == warmed


def test_a_killed_parent_is_noticed_and_replaced(executor, make, left):
    executor.submit(make("leave_processes_and_hang", name="first"))
    assert eventually((out_of(executor, "first") / "hanging").exists)
    os.kill(supervisor_of(executor), signal.SIGKILL)
    outcome = executor.wait(PATIENCE)
    assert (outcome.task, outcome.status) == ("first", "signal")
    assert "SIGKILL" in outcome.message
    assert left() == []
    assert [entry.name for entry in outcome.log.parent.parent.joinpath("work").iterdir()] == [
        "first"
    ]
    executor.submit(make("write", name="second"))
    assert wait_ok(executor).task == "second"


def test_a_parent_killed_while_idle_is_replaced(executor, run, make):
    assert run("write").status == "ok"
    os.kill(supervisor_of(executor), signal.SIGKILL)
    executor.parents[next(iter(executor.parents))].process.wait()
    executor.submit(make("write", name="second"))
    assert wait_ok(executor).task == "second"


def test_a_preload_that_crashes_is_said(run, monkeypatch, tmp_path):
    (tmp_path / "crashes.py").write_text("import os\nprint('bye', flush=True)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = run("write", toolchain=Toolchain(name="bad", preload=("crashes",)))
    assert outcome.status == "signal"
    assert outcome.message.startswith(
        "the warm parent of its workers (bad) was killed by SIGABRT (Aborted)"
    )
    assert "bye" in outcome.message


def test_a_preload_that_hangs_is_given_up(run, monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_START", 0.5)
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = run("write", toolchain=Toolchain(name="bad", preload=("hangs",)))
    assert outcome.status == "timeout"
    assert "an import hangs" in outcome.message


def test_cancel_ends_all_and_says_so(executor, make, left):
    executor.submit(make("leave_processes_and_hang", name="a"))
    executor.submit(make("hang_in_c", name="b"))
    outs = [out_of(executor, name) / "hanging" for name in "ab"]
    assert eventually(lambda: all(path.exists() for path in outs))
    executor.cancel()
    assert left() == []
    outcomes = [executor.wait(), executor.wait()]
    assert {(each.task, each.status) for each in outcomes} == {
        ("a", "cancelled"),
        ("b", "cancelled"),
    }
    assert executor.wait() is None
    executor.submit(make("write", name="c"))
    assert wait_ok(executor).task == "c"


def test_close_while_importing_does_not_wait_for_it(executor, make, monkeypatch, tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    executor.submit(make("write", toolchain=Toolchain(name="slow", preload=("slow",))))
    executor.wait(0.5)
    executor.close()


def test_without_forks(run, monkeypatch):
    monkeypatch.setattr(local, "FORK", False)
    outcome = run("surroundings", name="a")
    assert result(outcome)["leader"]
    assert run("segfault", name="b").status == "signal"
    assert run("hang_in_c", name="c", timeout=1.0).status == "timeout"
    assert run("leave_processes", name="d").status == "ok"
    assert run("connect", name="e", port=443).status == "error"


DRIVER = """
import sys, time
from pathlib import Path
from crosscast.pipeline.executors.local import Limits, LocalExecutor, Task
from crosscast.pipeline.toolchain import Toolchain

root = Path(sys.argv[1])
preload = tuple(sys.argv[3:])
with LocalExecutor(cache=root) as executor:
    executor.warm([Toolchain(name="idle")])
    for do in sys.argv[2].split(","):
        out = root / do
        out.mkdir()
        executor.submit(Task(
            id=do, module="fake_stages", toolchain=Toolchain(name="test", preload=preload),
            inputs={}, options={"do": do}, out=out, log=root / f"{do}.log",
            limits=Limits(timeout=1000, memory=1 << 40)))
    (root / "submitted").touch()
    executor.wait()
"""


def driver(tmp_path: Path, do: str, *preload: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DRIVER, str(tmp_path), do, *preload]
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_executor(tmp_path, left, number):
    with driver(tmp_path, "leave_processes_and_hang,hang_in_c") as process:
        hanging = [tmp_path / "leave_processes_and_hang/hanging", tmp_path / "hang_in_c/hanging"]
        assert eventually(lambda: all(path.exists() for path in hanging))
        process.send_signal(number)
        process.communicate()
    assert eventually(lambda: not left())
    assert not list(tmp_path.glob("*.scratch"))


def test_nothing_outlives_an_executor_killed_while_importing(tmp_path, left, monkeypatch):
    (tmp_path / "slow.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path)!r}, 'importing').touch()\n"
        "time.sleep(1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with driver(tmp_path, "write", "slow") as process:
        assert eventually((tmp_path / "importing").exists)
        process.kill()
        process.communicate()
    assert eventually(lambda: not left())


def test_an_overlay_comes_first_and_is_built_once(executor, make, monkeypatch, tmp_path):
    told: list[str] = []
    lock = tmp_path / "some.lock"
    lock.write_text("overlaid==1.0 --hash=sha256:00\n")

    def fake(_: Any, command: list[str]) -> subprocess.CompletedProcess[str]:
        target = Path(command[command.index("--target") + 1])
        target.mkdir()
        (target / "overlaid.py").touch()
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(local._Builder, "_run", fake)
    executor.on_message = told.append
    chain = Toolchain(name="over", overlay=lock)
    for number in range(2):
        executor.submit(make("overlaid", name=f"t{number}", toolchain=chain, module="overlaid"))
        assert str(tmp_path / "cache") in result(wait_ok(executor))["file"]
        executor.cancel()
    assert told == ["installing overlaid 1.0 for over (once)"]


def test_an_overlay_that_cannot_be_built_fails_its_tasks(executor, make, monkeypatch, tmp_path):
    lock = tmp_path / "some.lock"
    lock.write_text("overlaid==1.0 --hash=sha256:00\n")
    monkeypatch.setattr(
        local._Builder,
        "_run",
        lambda _, command: subprocess.CompletedProcess(command, 1, "no network\n"),
    )
    executor.submit(make("write", toolchain=Toolchain(name="over", overlay=lock)))
    outcome = executor.wait(PATIENCE)
    assert (outcome.status, outcome.exit_code) == ("error", 3)
    assert "no network" in outcome.message
    assert "--build-overlays" in outcome.fix


def test_an_installer_is_ended_by_close(executor, make, monkeypatch, tmp_path):
    lock = tmp_path / "some.lock"
    lock.write_text("overlaid==1.0 --hash=sha256:00\n")
    monkeypatch.setattr(local.overlay, "_command", lambda *_: ["sleep", "1000"])
    executor.submit(make("write", toolchain=Toolchain(name="over", overlay=lock)))
    assert eventually(lambda: executor.builder._running)
    executor.close()


@pytest.mark.parametrize("fork", [True, False])
def test_hidden_modules_are_not_there(run, monkeypatch, fork):
    monkeypatch.setattr(local, "FORK", fork)
    chain = Toolchain(name="hides", hidden=("this",), extra="tflite")
    outcome = run("overlaid", module="this", toolchain=chain)
    assert outcome.status == "error"
    assert "this" in outcome.message


def test_warm_parents_start_one_after_another(executor, make):
    executor.warm([Toolchain(name="first", preload=("csv",)), Toolchain(name="second")])
    assert [parent.toolchain.name for parent in executor.parents.values()] == ["first"]
    executor.submit(make("hang"))
    assert eventually(lambda: executor.wait(0) is None and len(executor.parents) == 3)


def test_toolchains_that_preload_the_same_share_a_warm_parent(executor, make):
    for name, hidden in (("one", ()), ("two", ("this",))):
        executor.submit(make("write", name=name, toolchain=Toolchain(name=name, hidden=hidden)))
    assert len(executor.parents) == 1
    assert {wait_ok(executor).task for _ in range(2)} == {"one", "two"}


def test_a_warm_parent_imports_the_rest_when_it_is_idle(executor, make):
    chain = Toolchain(name="late", preload=("csv",), later=("this",), hidden=("antigravity",))
    executor.warm([chain])
    plain = Toolchain(name="plain", preload=("csv",))

    def imported() -> bool:
        executor.submit(make("modules", name=uuid.uuid4().hex, toolchain=plain))
        return "this" in result(wait_ok(executor))["names"]

    assert eventually(imported)
    executor.submit(make("modules", name="last", toolchain=plain))
    assert "antigravity" not in result(wait_ok(executor))["names"]
