"""Steps and plans: the DAG, immutable, made before anything runs. Pure; imports only errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import CrosscastError
from crosscast.pipeline.toolchain import Toolchain

GIB = 1024**3


@dataclass(frozen=True)
class Output:
    """The tree that another step writes."""

    step: str


@dataclass(frozen=True)
class File:
    """A file or directory of the user's, an input by its content."""

    path: Path


Input = Output | File


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage bound to its options and inputs.

    id: unique in the plan and readable ("convert tflite-fp32").
    module: the stage's module, which the worker imports to call `run`.
    functions: references ("module:function") that the options hold and the stage calls; their
        code counts as the step's own.
    memory: estimated peak of the step's processes, in bytes.
    """

    id: str
    stage: str
    module: str
    toolchain: Toolchain
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    memory: int = GIB // 2

    def upstream(self) -> Iterator[str]:
        """The ids of the steps whose trees this one reads."""
        return (source.step for source in self.inputs.values() if isinstance(source, Output))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in topological order, and for each target the steps that prove and package it.

    spare: steps behind these that run only where an artifact has failed and is to be explained.
    """

    model: str
    version: str
    steps: tuple[Step, ...]
    targets: Mapping[str, TargetSteps]
    spare: tuple[Step, ...] = ()

    def step(self, step_id: str) -> Step:
        """The step of that id; KeyError where there is none."""
        return next(step for step in (*self.steps, *self.spare) if step.id == step_id)

    def needed_for(self, step_id: str) -> list[Step]:
        """A step and all that it needs, spare ones among them, in order."""
        wanted = {step_id}
        for step in reversed((*self.steps, *self.spare)):
            if step.id in wanted:
                wanted.update(step.upstream())
        return [step for step in (*self.steps, *self.spare) if step.id in wanted]


@dataclass(frozen=True, kw_only=True)
class TargetSteps:
    """The ids of the steps that end a target's chain. explain: of the spare one that says why it
    has failed; empty where the target cannot tell.
    """

    verify: str
    package: str
    explain: str = ""
    allow_unverified: str = ""


def ordered(steps: Mapping[str, Step]) -> tuple[Step, ...]:
    """The steps in topological order, otherwise in the order given.

    Raises CrosscastError on a cycle and on an input from a step that is not there.
    """
    done: dict[str, Step] = {}
    open_path: list[str] = []

    def visit(step_id: str) -> None:
        if step_id in done:
            return
        if step_id in open_path:
            cycle = " -> ".join([*open_path[open_path.index(step_id) :], step_id])
            raise CrosscastError(f"steps depend on each other in a circle: {cycle}")
        if step_id not in steps:
            raise CrosscastError(f"step '{open_path[-1]}' needs '{step_id}', which is not planned")
        open_path.append(step_id)
        for needed in steps[step_id].upstream():
            visit(needed)
        open_path.pop()
        done[step_id] = steps[step_id]

    for step_id in steps:
        visit(step_id)
    return tuple(done.values())
