"""Steps that fail leave what repeats them; real workers, a stage of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline import repro
from crosscast.pipeline.executors.local import Limits, Task
from crosscast.pipeline.graph import GIB
from crosscast.pipeline.repro import Repros, repeat
from crosscast.pipeline.store import Store
from crosscast.pipeline.toolchain import CORE

STAGE = """
import json, os, signal
from crosscast.pipeline.errors import StageError, ToolchainError
from crosscast.pipeline.stages import StageResult


def run(*, inputs, options, out):
    held = (inputs["model"] / "file").read_text() + inputs["source"].read_text()
    if options["do"] == "refuse":
        raise StageError(f"no operator for {held}", fix="take another")
    if options["do"] == "lack":
        raise ToolchainError("it is not there")
    if options["do"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if options["do"] == "refute":
        verdict = {"status": "failed", "reason": f"3 dB of {held}"}
        (out / "verdict.json").write_text(json.dumps(verdict))
    (out / "made").write_text(held)
    return StageResult()
"""


class Bench:
    """A store with a tree, a file of the user's, and tasks that read both."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store")
        self.repros = Repros(store=self.store, model="m", scope="m.yaml")
        with self.store.workspace() as workspace:
            made = workspace.directory("model")
            (made / "file").write_text("tree")
            self.tree = self.store.tree_path(self.store.put(made))
        self.source = root / "source.txt"
        self.source.write_text(" and file")
        self.place = self.store.repro("m", "m.yaml", "convert a")

    def keep(self, do: str) -> int | None:
        task = Task(
            id="convert a",
            module="stage_of_the_test",
            toolchain=CORE,
            inputs={"model": self.tree, "source": self.source},
            options={"do": do},
            out=self.place,
            log=self.place,
            limits=Limits(timeout=60, memory=4 * GIB),
        )
        return self.repros.keep(task)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "stage_of_the_test.py").write_text(STAGE)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return Bench(tmp_path)


def test_a_failure_is_repeated_by_its_script_alone(bench: Bench) -> None:
    assert bench.keep("refuse") == len("tree")
    shutil.rmtree(bench.store.root / "trees")  # as a clean-up of the store may
    command = bench.repros.command("convert a").split()
    assert command == [sys.executable, str(bench.place / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        "FAILED  convert a [error]: no operator for tree and file",
        "        fix: take another",
        f"        log: {bench.place / 'log'}",
    ]
    assert "no operator for tree and file" in (bench.place / "log").read_text()


@pytest.mark.parametrize(
    ("do", "said", "code"),
    [
        ("lack", "FAILED  convert a [error]: it is not there", 3),
        ("crash", "FAILED  convert a [signal]: died of SIGSEGV", 1),
        ("refute", "convert a  failed: 3 dB of tree and file", 4),
        ("well", "done    convert a  ", 0),
    ],
)
def test_it_ends_as_the_step_does(bench: Bench, do: str, said: str, code: int) -> None:
    bench.keep(do)
    text, found = repeat(bench.place)
    assert text.startswith(said)
    assert found == code


def test_what_has_changed_since_is_said(bench: Bench) -> None:
    bench.keep("well")
    told = json.loads((bench.place / "step.json").read_text())
    told["versions"]["numpy"] = "0.1"
    (bench.place / "step.json").write_text(json.dumps(told))
    bench.source.write_text(" and another file")
    notes = repeat(bench.place)[0].splitlines()[:-1]
    assert notes[0].startswith("note    numpy was 0.1, and is ")
    assert notes[1] == f"note    {bench.source} has changed since"
    assert (bench.place / "out/made").read_text() == "tree and another file"


def test_the_last_failure_is_kept_and_success_removes_it(bench: Bench) -> None:
    bench.keep("refuse")
    (bench.place / "litter").write_text("x")
    bench.keep("lack")
    assert sorted(path.name for path in bench.place.iterdir()) == ["inputs", "run.py", "step.json"]
    assert bench.place.stat().st_mode & 0o077 == 0
    assert [path.name for path in bench.place.parent.iterdir()] == ["convert_a"]
    bench.repros.discard("convert a")
    assert not bench.place.exists()
    assert bench.repros.command("convert a") == ""
    assert (bench.tree / "file").read_text() == "tree"


def test_a_tree_is_linked_and_copied_where_it_cannot_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.keep("well")
    assert (bench.place / "inputs/model/file").samefile(bench.tree / "file")

    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    bench.keep("well")
    assert not (bench.place / "inputs/model/file").samefile(bench.tree / "file")
    assert repeat(bench.place)[1] == 0


def test_a_full_disk_leaves_nothing_and_raises_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repro, "write_json", full)
    assert bench.keep("refuse") is None
    assert list(bench.place.parent.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", '{"step": 1}'])
def test_a_directory_that_is_not_whole_is_said(bench: Bench, content: str) -> None:
    bench.keep("well")
    (bench.place / "step.json").write_text(content)
    text, code = repeat(bench.place)
    assert text.startswith(f"error: {bench.place / 'step.json'} does not tell the step: ")
    assert code == 2
