"""What it takes to repeat a failed step alone: a directory with its inputs and a script.

    step.json   the step's module, toolchain, options, limits, versions and how it ended
    inputs/     the trees that it read, as hard links; they outlive those of the store
    run.py      repeats it

The user's own files stay where they are, since code imports its neighbours and weights are large.
There is one directory for each step of a config, of its last failure.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosscast.pipeline import staging
from crosscast.pipeline.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    ConfigError,
    CrosscastError,
    ParityError,
)
from crosscast.pipeline.executors.local import Limits, LocalExecutor, Outcome, Task
from crosscast.pipeline.fingerprint import installed_version
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.store import Store
from crosscast.pipeline.toolchain import Toolchain

STEP = "step.json"
INPUTS = "inputs"
SCRIPT = "run.py"
VERDICT = "verdict.json"

_SCRIPT = '''\
"""Repeats the step of `step.json` alone, in isolation, as the build ran it."""

import sys
from pathlib import Path

from crosscast.pipeline.repro import repeat

if __name__ == "__main__":
    text, code = repeat(Path(__file__).absolute().parent)
    print(text)
    sys.exit(code)
'''


@dataclass(frozen=True, kw_only=True)
class Repros:
    """Those of one config. threads: of each step's own arithmetic."""

    store: Store
    model: str
    scope: str
    threads: int = 1

    def keep(self, task: Task) -> int | None:
        """Leave what repeats a task; the bytes that its inputs have.

        None where it cannot be written (a full disk): there is nothing then, and the failure stays
        the one that it was.
        """
        place = self._place(task.id)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            staging.sweep(place.parent)
            with staging.held(place.parent) as staged:
                size = self._write(task, staged)
                staging.put_in_place(staged, place)
            return size
        except (OSError, CrosscastError):
            return None

    def discard(self, step: str) -> None:
        """Remove what an earlier failure of the step has left."""
        if self._place(step).exists():
            staging.remove(self._place(step))

    def command(self, step: str) -> str:
        """The command line that repeats the step; empty where it has left nothing."""
        script = self._place(step) / SCRIPT
        return shlex.join([sys.executable, str(script)]) if script.exists() else ""

    def _place(self, step: str) -> Path:
        return self.store.repro(self.model, self.scope, step)

    def _write(self, task: Task, staged: Path) -> int:
        trees = self.store.tree_path("")
        inputs, digests, size = {}, {}, 0
        for name, path in task.inputs.items():
            if path.is_relative_to(trees):
                copy = staged / INPUTS / name
                shutil.copytree(path, copy, copy_function=_link)
                inputs[name] = f"{INPUTS}/{name}"
                size += sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
            else:
                inputs[name] = str(path.absolute())
                digests[name] = self.store.file_digest(path)
        told = {
            "step": task.id,
            "module": task.module,
            "toolchain": asdict(task.toolchain) | {"overlay": str(task.toolchain.overlay or "")},
            "inputs": inputs,
            "digests": digests,
            "options": task.options,
            "limits": asdict(task.limits),
            "threads": self.threads,
            "cache": str(self.store.root),
            "versions": _versions(task.toolchain),
        }
        write_json(staged / STEP, told)
        (staged / SCRIPT).write_text(_SCRIPT, encoding="utf-8")
        staged.chmod(0o700)  # options may say what only their owner should read
        return size


def repeat(place: Path) -> tuple[str, int]:
    """Run the step of a directory again: how it ended, for people, and the exit code that it asks
    of a build. What it writes is in `out/`, its output in `log`.
    """
    try:
        told, task = _read(place)
        with LocalExecutor(cache=Path(told["cache"]), threads=told["threads"]) as executor:
            outcome = executor.run(task)
        text, code = _ended(outcome, task.out)
        return "\n".join([*(f"note    {line}" for line in _changes(told, task)), text]), code
    except CrosscastError as error:
        return f"error: {error}", error.exit_code
    except KeyboardInterrupt:
        return "interrupted", EXIT_INTERRUPTED


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # a filesystem without links, or too many of them
        shutil.copyfile(source, target)
    return target


def _versions(toolchain: Toolchain) -> dict[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    found = {name: installed_version(name) or "missing" for name in toolchain.distributions}
    return {"python": python, **found}


def _read(place: Path) -> tuple[dict[str, Any], Task]:
    """What is told of the step, and its task. Raises ConfigError where it is not all there."""
    try:
        told: dict[str, Any] = json.loads((place / STEP).read_text(encoding="utf-8"))
        return told, _task(told, place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{place / STEP} does not tell the step: {error!r}",
            fix="build again: the step leaves a new one if it fails",
        ) from error


def _toolchain(told: Mapping[str, Any]) -> Toolchain:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
    }
    return Toolchain(**values | {"overlay": Path(told["overlay"]) if told["overlay"] else None})


def _task(told: Mapping[str, Any], place: Path) -> Task:
    out = place / "out"
    staging.remove(out)
    out.mkdir()
    return Task(
        id=told["step"],
        module=told["module"],
        toolchain=_toolchain(told["toolchain"]),
        inputs={name: place / path for name, path in told["inputs"].items()},
        options=told["options"],
        out=out,
        log=place / "log",
        limits=Limits(**told["limits"]),
    )


def _changes(told: Mapping[str, Any], task: Task) -> list[str]:
    """What is not as it was when the step failed."""
    store = Store(Path(told["cache"]))
    now = _versions(task.toolchain)
    found = [
        f"{name} was {version}, and is {now[name]}"
        for name, version in told["versions"].items()
        if now[name] != version
    ]
    for name, digest in told["digests"].items():
        path = task.inputs[name]
        if store.file_digest(path) != digest:
            found.append(f"{path} has changed since")
    return found


def _ended(outcome: Outcome, out: Path) -> tuple[str, int]:
    """How a step ended, and the exit code; a verdict that does not pass is a failure."""
    step = outcome.task
    if outcome.status != "ok":
        lines = [f"FAILED  {step} [{outcome.status}]: {outcome.message}"]
        lines += [f"        fix: {outcome.fix}"] if outcome.fix else []
        return "\n".join([*lines, f"        log: {outcome.log}"]), outcome.exit_code
    if (out / VERDICT).exists():
        verdict = json.loads((out / VERDICT).read_text(encoding="utf-8"))
        passed = verdict["status"] == "passed"
        text = f"{step}  {verdict['status']}: {verdict['reason']}"
        return text, EXIT_OK if passed else ParityError.exit_code
    return f"done    {step}  {outcome.seconds:.1f} s -> {out}", EXIT_OK
