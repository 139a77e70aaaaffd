"""Walks a plan through an executor: what is recorded is not run again, what fails stops only
what depends on it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from crosscast.pipeline.errors import (
    EXIT_OK,
    CrosscastError,
    GateError,
    ParityError,
    StageError,
    ToolchainError,
)
from crosscast.pipeline.events import (
    StepCached,
    StepFailed,
    StepFinished,
    StepSkipped,
    StepStarted,
    Subscriber,
    TargetFinished,
)
from crosscast.pipeline.executors.local import Limits, LocalExecutor, Outcome, Task
from crosscast.pipeline.graph import File, Plan, Step, TargetSteps
from crosscast.pipeline.ledger import Ledger
from crosscast.pipeline.manifest import RELEASE
from crosscast.pipeline.repro import Repros
from crosscast.pipeline.store import Workspace

SECONDS = {"export": 4.0, "convert": 2.0, "quantize": 2.0, "reference": 1.0, "samples": 1.0}
"""Rough cost of a stage: it only orders what is ready, longest remaining path first."""

RANK = (StageError.exit_code, ToolchainError.exit_code, ParityError.exit_code)
"""Exit codes of failed targets; the first that occurred is the build's."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run a plan.

    jobs: steps at a time. memory: budget of all running steps together, in bytes.
    timeout: of each step, in seconds. step_memory: cap of one step; None: the whole budget.
    """

    artifacts: Path
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    memory: int = field(default_factory=lambda: int(psutil.virtual_memory().available * 0.9))
    timeout: float = 1800
    step_memory: int | None = None
    force: bool = False
    keep_going: bool = True

    @property
    def threads(self) -> int:
        """Threads of each step, so that `jobs` steps together have one a core."""
        return max(1, (os.cpu_count() or 1) // self.jobs)

    @property
    def limits(self) -> Limits:
        """Of each step."""
        return Limits(timeout=self.timeout, memory=self.step_memory or self.memory)


@dataclass(frozen=True, kw_only=True)
class TargetResult:
    """How a target ended; `code` is the exit code that it asks for."""

    target: str
    status: str
    reason: str
    code: int
    artifact: Path | None = None


def worst(codes: Collection[int]) -> int:
    """The highest-ranked exit code; 0 where nothing failed."""
    return next((code for code in RANK if code in codes), max(codes, default=EXIT_OK))


class _Running(NamedTuple):
    step: Step
    base: dict[str, str]
    memory: int
    started: int
    task: Task


class Runner:
    """One run of a plan."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        executor: LocalExecutor,
        workspace: Workspace,
        settings: Settings,
        emit: Subscriber,
    ) -> None:
        self.ledger = ledger
        self.plan = ledger.plan
        self.store = ledger.store
        self.executor = executor
        self.workspace = workspace
        self.settings = settings
        self.emit = emit
        self.repros = Repros(
            store=ledger.store,
            model=ledger.plan.model,
            scope=ledger.scope,
            threads=settings.threads,
        )
        self.pending = {step.id: step for step in self.plan.steps}
        self.running: dict[str, _Running] = {}
        self.dead: dict[str, tuple[str, int]] = {}
        self.results: dict[str, TargetResult] = {}
        self.asked: set[str] = set()
        """Spare steps that a failed verdict has asked for."""
        self.priority = _remaining_seconds(self.plan)

    def run(self) -> dict[str, TargetResult]:
        """Run what has to run; deliver what was proven. Gives each target's end, in order."""
        self._settle_cached()
        self._warm()
        while self.pending or self.running:
            self._submit_ready()
            self._deliver_packaged()
            if not self.running:
                break
            outcome = self.executor.wait()
            if outcome is not None:
                self._finish(outcome)
                self._settle_cached()
        for name, ends in self.plan.targets.items():
            self._end(name, ends)
        return {name: self.results[name] for name in self.plan.targets}

    def _deliver_packaged(self) -> None:
        """Deliver while workers are at work, not after them."""
        for name, ends in self.plan.targets.items():
            if ends.package in self.ledger.trees:
                self._end(name, ends)

    def _settle_cached(self) -> None:
        """Take every step off the list that is recorded, or that can no longer run."""
        asked = -1
        while len(self.asked) > asked:  # a verdict may ask for more of them
            asked = len(self.asked)
            self._settle()

    def _settle(self) -> None:
        for step in list(self.pending.values()):
            blocker = next((name for name in step.upstream() if name in self.dead), None)
            if blocker is None and self._gate_closed(step):
                blocker = next(end.verify for end in self._ends(step))
                self.dead[step.id] = self._gate_closed(step) or ("", 0)
                self._skip(step, blocker)
                self._ask_why(self._ends(step))
            elif blocker is not None:
                self.dead[step.id] = self.dead[blocker]
                self._skip(step, blocker)
            elif self._ready(step) and not self.ledger.force:
                self._try_cached(step)

    def _ask_why(self, failed: Collection[TargetSteps]) -> None:
        """Have the spare steps run that explain targets whose artifact failed."""
        for ends in failed:
            if ends.explain and self._verdict(ends)[0] == "failed":
                needed = {step.id: step for step in self.plan.needed_for(ends.explain)}
                spare = {step.id for step in self.plan.spare} - self.asked
                self.pending |= {name: step for name, step in needed.items() if name in spare}
                self.asked |= needed.keys() & spare

    def _skip(self, step: Step, blocker: str) -> None:
        del self.pending[step.id]
        self.emit(StepSkipped(step=step.id, because=blocker))

    def _try_cached(self, step: Step) -> None:
        record, _ = self.ledger.lookup(step, self.ledger.ingredients(step))
        if record is not None:
            del self.pending[step.id]
            self.ledger.trees[step.id] = record.tree
            if not self._refuted(step.id):
                self.repros.discard(step.id)
            self.emit(StepCached(step=step.id))

    def _ready(self, step: Step) -> bool:
        return all(name in self.ledger.trees for name in step.upstream())

    def _warm(self) -> None:
        """Have the toolchains that are needed first warmed first."""
        start: dict[str, float] = {}
        for step in self.pending.values():
            waits = [
                start[name] + _cost(self.plan.step(name))
                for name in step.upstream()
                if name in start
            ]
            start[step.id] = max(waits, default=0.0)
        by_need = sorted(self.pending.values(), key=lambda step: start[step.id])
        self.executor.warm(dict.fromkeys(step.toolchain for step in by_need))

    def _submit_ready(self) -> None:
        ready = [step for step in self.pending.values() if self._ready(step)]
        for step in sorted(ready, key=lambda step: -self.priority.get(step.id, 0.0)):
            if self._fits(step):
                self._submit(step)

    def _fits(self, step: Step) -> bool:
        if not self.running:
            return True
        used = sum(entry.memory for entry in self.running.values())
        return (
            len(self.running) < self.settings.jobs
            and used + self.ledger.memory(step) <= self.settings.memory
        )

    def _submit(self, step: Step) -> None:
        del self.pending[step.id]
        base = self.ledger.ingredients(step)
        _, reason = self.ledger.lookup(step, base)
        out, log = self.workspace.directory(step.id), self.store.log(self.ledger.scope, step.id)
        self.emit(StepStarted(step=step.id, reason=reason))
        task = Task(
            id=step.id,
            module=step.module,
            toolchain=step.toolchain,
            inputs={name: self._path(source) for name, source in step.inputs.items()},
            options=step.options,
            out=out,
            log=log,
            limits=self.settings.limits,
        )
        memory = self.ledger.memory(step)
        self.running[step.id] = _Running(step, base, memory, time.time_ns(), task)
        self.executor.submit(task)

    def _path(self, source: Any) -> Path:
        if isinstance(source, File):
            return source.path
        return self.store.tree_path(self.ledger.trees[source.step])

    def _finish(self, outcome: Outcome) -> None:
        running = self.running.pop(outcome.task)
        step = running.step
        if outcome.status != "ok":
            size = None if outcome.status == "cancelled" else self.repros.keep(running.task)
            self._failed(step, outcome.status, outcome.message, outcome.fix, outcome, kept=size)
            return
        try:
            tree = self.store.put(self.workspace.path(step.id))
            self.ledger.save(step, running.base, outcome, tree, started=running.started)
        except CrosscastError as error:
            self._failed(step, "error", error.message, error.fix, outcome, error.exit_code)
            return
        self.ledger.trees[step.id] = tree
        if self._refuted(step.id):
            self.repros.keep(running.task)
        else:
            self.repros.discard(step.id)
        assert outcome.result is not None
        self.emit(
            StepFinished(
                step=step.id,
                seconds=outcome.seconds,
                peak=outcome.peak,
                notes=dict(outcome.result.notes),
            )
        )

    def _failed(
        self,
        step: Step,
        status: str,
        message: str,
        fix: str,
        outcome: Outcome,
        code: int | None = None,
        kept: int | None = None,
    ) -> None:
        self.dead[step.id] = (f"{step.id}: {message}", code or outcome.exit_code)
        self.emit(
            StepFailed(
                step=step.id,
                status=status,
                message=message,
                fix=fix,
                log=str(outcome.log),
                repeat="" if kept is None else self.repros.command(step.id),
                size=kept or 0,
            )
        )
        if not self.settings.keep_going:
            for waiting in list(self.pending.values()):
                self.dead[waiting.id] = self.dead[step.id]
                self._skip(waiting, step.id)

    def _refuted(self, step: str) -> bool:
        """Whether a step has run that found an artifact to be wrong."""
        ends = (ends for ends in self.plan.targets.values() if ends.verify == step)
        return any(self._verdict(each)[0] == "failed" for each in ends)

    def _ends(self, step: Step) -> list[TargetSteps]:
        return [ends for ends in self.plan.targets.values() if ends.package == step.id]

    def _gate_closed(self, step: Step) -> tuple[str, int] | None:
        """Why a package step may not run: its artifact was not proven. None where it may."""
        for ends in self._ends(step):
            if ends.verify in self.ledger.trees:
                status, reason = self._verdict(ends)
                allowed = status == "unverified" and ends.allow_unverified
                if not (status == "passed" or allowed):
                    return reason, ParityError.exit_code
        return None

    def _verdict(self, ends: TargetSteps) -> tuple[str, str]:
        path = self.store.tree_path(self.ledger.trees[ends.verify]) / "verdict.json"
        verdict = json.loads(path.read_text(encoding="utf-8"))
        return verdict["status"], verdict["reason"]

    def _end(self, name: str, ends: TargetSteps) -> None:
        """Deliver a target's artifact if it may ship, and say how the target ended, once."""
        if name in self.results:
            return
        proven = ends.verify in self.ledger.trees
        status, reason = self._verdict(ends) if proven else ("error", "")
        artifact, code, why = None, EXIT_OK, self._explanation(ends)
        if ends.package in self.ledger.trees:
            try:
                artifact = self._deliver(name, self.ledger.trees[ends.package])
            except CrosscastError as error:
                status, reason, code = "error", str(error), error.exit_code
        else:
            blocked, code = self.dead.get(ends.package, ("not built", StageError.exit_code))
            if not (proven and self._gate_closed(self.plan.step(ends.package))):
                status, reason = "error", blocked
        if why is not None:
            reason = "\n".join([reason, *why["lines"]])
        self.emit(
            TargetFinished(
                target=name,
                status=status,
                reason=reason,
                artifact=str(artifact or ""),
                explanation=why,
                repeat=self.repros.command(ends.verify) if status == "failed" else "",
            )
        )
        self.results[name] = TargetResult(
            target=name, status=status, reason=reason, code=code, artifact=artifact
        )

    def _explanation(self, ends: TargetSteps) -> dict[str, Any] | None:
        if ends.explain not in self.ledger.trees:
            return None
        path = self.store.tree_path(self.ledger.trees[ends.explain]) / "explanation.json"
        explanation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return explanation

    def _deliver(self, target: str, tree: str) -> Path:
        path = self.settings.artifacts / self.plan.model / self.plan.version / target
        if not self.store.delivered(tree, path):
            if path.exists() and (path.parent / RELEASE).exists():
                raise GateError(
                    f"{path.parent} is released, and this build gives other files for {target}",
                    fix="give the config another version, or build into another directory (-o)",
                )
            self.store.deliver(tree, path)
        self.store.save_origin(path, self.ledger.scope)
        return path


def _remaining_seconds(plan: Plan) -> dict[str, float]:
    """For each step, the estimated time of the longest path from its start to the plan's end."""
    remaining = {step.id: _cost(step) for step in plan.steps}
    for step in reversed(plan.steps):
        for needed in step.upstream():
            through = _cost(plan.step(needed)) + remaining[step.id]
            remaining[needed] = max(remaining[needed], through)
    return remaining


def _cost(step: Step) -> float:
    return SECONDS.get(step.stage, 0.5)
