"""The mutants of one model on its targets, each with its verdict."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscast.pipeline.graph import Plan
from crosscast.pipeline.parity.chain import BEFORE
from mutants import plans
from mutants.batch import FAILED, slug
from mutants.bench import Bench, least_snr, verdict
from mutants.damage import FOUND
from mutants.mutate import EFFECTS


@dataclass(frozen=True, kw_only=True)
class Row:
    """One mutant of one model on one target; an honest artifact where `mutation` is empty.

    group: honest, semantic or calibration.
    status: by its own numbers: passed, failed, unverified; or unbuilt.
    precision: delivered. limit_db: of its SNR. snr_db: the least of the gated cases.
    effect_db: what a semantic mutation does to the float model (see `mutate`).
    float_status: the verdict on what the quantizer started from; empty where nothing is quantized.
    """

    model: str
    target: str
    group: str
    mutation: str
    status: str
    precision: str = ""
    limit_db: float | None = None
    snr_db: float | None = None
    effect_db: float | str | None = None
    float_status: str = ""
    reason: str = ""


def honest_rows(bench: Bench, plan: Plan, *, model: str) -> list[Row]:
    """The honest artifacts."""
    trees = bench.run(plan)
    return [
        _row(bench, plan, trees, "", model=model, target=target, group="honest", mutation="")
        for target in plans.targets_of(plan)
    ]


def semantic_rows(
    bench: Bench, plan: Plan, mutations: Collection[str], *, model: str
) -> tuple[list[Row], dict[str, Any]]:
    """The mutants that were made, and by mutation what it does to the float model."""
    trees = bench.run(plans.mutants(plan, mutations))
    found = [tree / EFFECTS for step, tree in trees.items() if (tree / EFFECTS).exists()]
    effects: dict[str, Any] = json.loads(found[0].read_text()) if found else {}
    made = {name: effect for name, effect in effects.items() if _is_made(effect)}
    rows = [
        _row(
            bench, plan, trees, plans.MUTANTS,
            model=model, target=target, group="semantic", mutation=name, effect_db=effect,
        )
        for name, effect in made.items()
        for target in plans.targets_of(plan)
    ]  # fmt: skip
    return rows, effects


def calibration_rows(
    bench: Bench, plan: Plan, mutations: Collection[str], *, model: str
) -> Iterator[Row]:
    """Artifacts that were calibrated on other ranges, where calibration has any part in them."""
    whole = plans.miscalibrated(plan, mutations)
    ids = {step.id for step in whole.steps}
    trees = bench.run(whole)
    for target in plans.targets_of(plan):
        if f"verify {target}{plans.MISCALIBRATED}" not in ids:
            continue
        for name in mutations:
            yield _row(
                bench, plan, trees, plans.MISCALIBRATED,
                model=model, target=target, group="calibration", mutation=name,
            )  # fmt: skip


def damage(bench: Bench, plan: Plan, *, flips: int) -> dict[str, Any]:
    """What the gate finds of damaged files, by target (see `mutants.damage`)."""
    trees = bench.run(plans.damaged(plan, {"flips": flips}))
    found = {
        target: trees.get(f"verify {target}{plans.DAMAGED}") for target in plans.targets_of(plan)
    }
    return {
        target: json.loads((tree / FOUND).read_text()) for target, tree in found.items() if tree
    }


def _is_made(effect: Any) -> bool:
    return isinstance(effect, float) or effect == "-inf"


def _row(
    bench: Bench,
    plan: Plan,
    trees: Mapping[str, Path],
    kind: str,
    *,
    target: str,
    mutation: str,
    **told: Any,
) -> Row:
    own = _member(trees.get(f"verify {target}{kind}"), mutation)
    floats = _member(trees.get(f"{plans.before(plan, target)}{kind}"), mutation)
    found: dict[str, Any] = {"status": "unbuilt"}
    if own is None:
        found["reason"] = _why(bench, trees, kind, target, mutation)
    else:
        given = verdict(own)
        found = {
            "status": _own_status(given),
            "precision": given["precision"]["delivered"],
            "limit_db": given["tolerance"]["min_snr_db"],
            "snr_db": least_snr(given),
            "reason": _first(given["reason"]),
        }
    if floats is not None:
        found["float_status"] = verdict(floats)["status"]
    return Row(target=target, mutation=mutation, **found, **told)


def _own_status(given: Mapping[str, Any]) -> str:
    """The verdict without what the float form adds to it."""
    own = [line for line in given["reason"].split("\n") if not line.startswith(f"{BEFORE}:")]
    return "passed" if given["status"] == "failed" and not own else str(given["status"])


def _member(tree: Path | None, mutation: str) -> Path | None:
    if tree is None or not mutation:
        return tree
    member = tree / slug(mutation)
    return member if member.is_dir() else None


def _why(bench: Bench, trees: Mapping[str, Path], kind: str, target: str, mutation: str) -> str:
    """Why there is no verdict: what the first of the target's own steps said that failed."""
    for stage in ("convert", "quantize", "verify"):
        step = f"{stage} {target}{kind}"
        if step in bench.failed:
            return _first(bench.failed[step])
        if step in trees and (trees[step] / FAILED).exists():
            failed = json.loads((trees[step] / FAILED).read_text())
            if slug(mutation) in failed:
                return _first(failed[slug(mutation)])
    return "what it needs was not built"


def _first(text: str) -> str:
    return text.partition("\n")[0][:200]
