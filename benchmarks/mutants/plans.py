"""Plans of mutants: a config's own plan, and beside it the same steps on what a mutation changed,
judged by the honest reference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.schema import Config, config_model
from crosscast.pipeline.graph import Input, Output, Plan, Step
from crosscast.pipeline.planner import plan
from crosscast.targets import TARGETS

REFERENCE = "reference"
MUTANTS, MISCALIBRATED, DAMAGED = " of mutants", " of the miscalibrated", " of the damaged"
"""End the ids of steps that are not the honest plan's."""

JUDGED = ("model", "reference", "floats")
"""What `verify` reads of an artifact, but for the verdict on what it was quantized from."""

FIRST = {MUTANTS: ("mutants.mutate", "model"), MISCALIBRATED: ("mutants.rescale", "samples")}
"""The module that begins a batch, and its name for the tree that it changes."""


def configured(path: Path, targets: Collection[str]) -> Config:
    """The config with these targets in place of its own, all of them by way of ONNX: there a
    mutation is one and the same for all.
    """
    field = config_model(TARGETS).model_fields["targets"]
    wanted = {name: {"via": "onnx"} for name in targets}
    return load(path).model_copy(
        update={"targets": TypeAdapter(field.rebuild_annotation()).validate_python(wanted)}
    )


def honest(config: Config) -> Plan:
    """The steps that build and judge the targets. Nothing is packaged: no mutant is delivered."""
    own = plan(config)
    return replace(own, steps=tuple(it for it in own.steps if it.stage != "package"), targets={})


def mutants(of: Plan, mutations: Collection[str]) -> Plan:
    """The honest plan, and behind each simplified ONNX model all that is made of its mutants."""
    return _batched(of, MUTANTS, mutations, lambda step: step.stage == "simplify")


def miscalibrated(of: Plan, mutations: Collection[str]) -> Plan:
    """The honest plan, and all that is quantized by other ranges. Conversions only try their work
    on samples: they stay.
    """
    return _batched(
        of,
        MISCALIBRATED,
        mutations,
        lambda step: step.options.get("purpose") == "calibration",
        stays="convert",
    )


def damaged(of: Plan, options: Mapping[str, Any]) -> Plan:
    """The honest plan, and the stage `damage` on each artifact."""
    added = [
        replace(
            of.step(f"verify {target}"),
            id=f"verify {target}{DAMAGED}",
            stage="damage",
            module="mutants.damage",
            options={**of.step(f"verify {target}").options, **options},
            inputs={
                name: source
                for name, source in of.step(f"verify {target}").inputs.items()
                if name in JUDGED
            },
        )
        for target in targets_of(of)
    ]
    return replace(of, steps=(*of.steps, *added))


def targets_of(of: Plan) -> list[str]:
    """The targets whose artifacts an honest plan judges."""
    names = [it.id.removeprefix("verify ") for it in of.steps if it.stage == "verify"]
    return [name for name in names if name in TARGETS]


def before(of: Plan, target: str) -> str:
    """The id of the step that judges what a target's quantizer starts from; empty for none."""
    return _step(of.step(f"verify {target}").inputs.get("before", Output("")))


def _batched(
    of: Plan,
    kind: str,
    mutations: Collection[str],
    starts: Callable[[Step], bool],
    *,
    stays: str = "",
) -> Plan:
    """The plan, and for each step whose input changes with a mutation the same work for all
    mutants; `kind` ends the ids of those. A batch begins behind each step that `starts` one. Steps
    of the stage that `stays` are honest ones.
    """
    module, key = FIRST[kind]
    added: list[Step] = []
    batches: dict[str, str] = {}
    for step in of.steps:
        if starts(step):
            made = replace(
                step,
                id=f"{step.id}{kind}",
                stage="mutate",
                module=module,
                options={"mutations": list(mutations)},
                inputs={key: Output(step.id), "reference": Output(REFERENCE)},
                functions=(),
            )
        elif step.stage != stays and (
            changing := [name for name, it in step.inputs.items() if _step(it) in batches]
        ):
            moved = {name: Output(batches[_step(step.inputs[name])]) for name in changing}
            made = replace(
                step,
                id=f"{step.id}{kind}",
                module="mutants.batch",
                options={"module": step.module, "options": step.options, "batched": changing},
                inputs={**step.inputs, **moved},
                functions=(f"{step.module}:run", *step.functions),
            )
        else:
            continue
        batches[step.id] = made.id
        added.append(made)
    return replace(of, steps=(*of.steps, *added))


def _step(source: Input) -> str:
    return source.step if isinstance(source, Output) else ""
