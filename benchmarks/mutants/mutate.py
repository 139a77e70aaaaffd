"""Stage: the semantic mutants of an ONNX tree, and how far each is from the honest model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.baseline import gather
from crosscast.pipeline.parity.metrics import compare
from crosscast.pipeline.parity.tolerance import TOLERANCES
from crosscast.pipeline.parity.vectors import read_reference, read_signature
from crosscast.pipeline.stages import StageResult
from crosscast.targets.families import onnx as family
from crosscast.targets.families.onnx_runtime import OnnxSession
from mutants.batch import slug
from mutants.graph import Graph
from mutants.semantic import SEMANTIC, Facts

EFFECTS = "effects.json"

NO_CHANGE_DB = TOLERANCES["fp32"].min_snr_db
"""A mutant that is this close to the honest model in float32 computes the same: so far may two
honest float32 builds be from each other."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write a batch of the mutants of the tree `model`, and EFFECTS: by mutation, the effect in dB,
    "no change", "does not run", or "not applicable"; only those with a number are in the batch.

    The effect is the SNR of the mutant's worst float output against the honest model's, both in
    ONNX Runtime in float32, over the cases of `reference` that are not adversarial; "-inf" where
    it gives other shapes or is no number.
    """
    facts = _facts(inputs["reference"])
    effects = {
        name: _mutant(name, inputs["model"], inputs["reference"], facts, out)
        for name in options["mutations"]
    }
    write_json(out / EFFECTS, effects)
    return StageResult(notes=effects)


def _mutant(name: str, honest: Path, reference: Path, facts: Facts, out: Path) -> Any:
    model = family.load(honest)
    if not SEMANTIC[name](Graph(model), facts):
        return "not applicable"
    tree = out / slug(name)
    tree.mkdir()
    family.save(model, tree)
    family.carry(honest, tree)
    found = effect(honest, tree, reference)
    if isinstance(found, float) and found < NO_CHANGE_DB:
        return str(found) if math.isinf(found) else round(found, 1)
    for path in tree.iterdir():
        path.unlink()
    tree.rmdir()
    return found if isinstance(found, str) else "no change"


def _facts(reference: Path) -> Facts:
    signature = read_signature(reference)
    outputs: dict[str, list[Any]] = {}
    for vector in read_reference(reference):
        for name, array in vector.outputs.items():
            if array.dtype.kind == "f" and array.ndim and array.size:
                rows = np.nan_to_num(array, posinf=0, neginf=0).reshape(-1, array.shape[-1])
                outputs.setdefault(name, []).append(rows)
    return Facts(
        ranges={it.name: it.range for it in signature.inputs if it.range is not None},
        means={name: _mean(rows) for name, rows in outputs.items()},
    )


def _mean(rows: list[Any]) -> Any:
    """By place along the last axis; one for all where its size varies."""
    if len({each.shape[1] for each in rows}) == 1:
        return np.concatenate(rows).mean(0)
    return np.concatenate([each.reshape(-1) for each in rows]).mean()


def effect(honest: Path, mutant: Path, reference: Path) -> float | str:
    """The effect of a mutation (see `run`); inf where all is equal."""
    typical = gather(read_reference(reference)).typical
    worst = math.inf
    try:
        sessions = [OnnxSession(tree / family.MODEL) for tree in (honest, mutant)]
        for vector in read_reference(reference):
            if vector.case.origin == "adversarial":
                continue
            before, after = (session.run(vector.case.arrays) for session in sessions)
            for name, wanted in before.items():
                numbers = compare(wanted, after[name], typical=typical[name])
                if numbers.problem:
                    return -math.inf
                worst = min(worst, math.inf if numbers.snr_db is None else numbers.snr_db)
    except family.StageError as error:
        return f"does not run: {error.message[:150]}"
    return worst
