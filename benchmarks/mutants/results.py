"""What was measured, kept from run to run: one row for each artifact, and the effects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mutants.matrix import Row

PATH = Path(__file__).parent.parent / "results/mutations.json"


LOSSY = {
    ("cifar-resnet8", "coreml-int4"): "of 78 thousand weights, palettes of 16 leave the worst photo"
    " 0.4 dB; with one for each 4 channels it is 3.4 dB",
    (
        "efficientnet-lite0",
        "coreml-int4",
    ): "one palette of 16 for each weight leaves the worst photo less signal than noise (-4.1 dB)",
    ("silero-vad", "coreml-int4"): "palettes of 16 for recurrent weights leave the probability of"
    " the worst chunk of speech less signal than noise (-6.6 dB)",
}
"""Honest artifacts that are rejected rightly, by (model, target): what their precision costs."""


def read() -> list[Row]:
    """All rows, in the order of models and targets in which they were first run."""
    return [Row(**entry) for entry in _load()["rows"]]


def effects() -> dict[str, dict[str, Any]]:
    """By model and mutation, what the mutation does to the float model (see `mutate`)."""
    found: dict[str, dict[str, Any]] = _load()["effects"]
    return found


def damage() -> dict[str, dict[str, Any]]:
    """By model and target, what the gate finds of damaged files (see `mutants.damage`)."""
    found: dict[str, dict[str, Any]] = _load()["damage"]
    return found


def add(model: str, rows: Sequence[Row] = (), *, effects: Any = None, damage: Any = None) -> None:
    """Put what was found of a model in the place of what was known of the same, and write all."""
    whole = _load()
    kept = {_key(entry): entry for entry in whole["rows"]}
    kept |= {_key(entry): entry for entry in map(asdict, rows)}
    whole["rows"] = list(kept.values())
    whole["effects"].setdefault(model, {}).update(effects or {})
    whole["damage"].setdefault(model, {}).update(damage or {})
    PATH.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def honest(rows: Sequence[Row]) -> list[Row]:
    """The honest artifacts that were built."""
    return [row for row in rows if row.group == "honest" and row.status != "unbuilt"]


def judged(rows: Sequence[Row], group: str) -> list[Row]:
    """The mutants of a group that were built, of targets whose honest artifact passed."""
    sound = {(row.model, row.target) for row in honest(rows) if row.status == "passed"}
    return [
        row
        for row in rows
        if row.group == group
        and row.status not in ("unbuilt", "unverified")
        and (row.model, row.target) in sound
    ]


def calibrated(rows: Sequence[Row]) -> list[Row]:
    """The rows whose numbers calibration has a part in, and the honest ones."""
    return [row for row in rows if row.group == "honest" or row.precision in ("int8", "int4")]


def rejected(row: Row) -> bool:
    """Whether the gate rejects it: by its own numbers, or by those of what was quantized."""
    return "failed" in (row.status, row.float_status)


def alarms(rows: Sequence[Row]) -> list[Row]:
    """Honest artifacts that were rejected, but for those that are LOSSY."""
    found = [row for row in honest(rows) if rejected(row)]
    return [row for row in found if (row.model, row.target) not in LOSSY]


def survivors(rows: Sequence[Row], group: str = "semantic") -> list[Row]:
    """Mutants that the gate let by."""
    return [row for row in judged(rows, group) if not rejected(row)]


def _key(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(entry[name] for name in ("model", "target", "group", "mutation"))


def _load() -> dict[str, Any]:
    if not PATH.exists():
        return {"effects": {}, "damage": {}, "rows": []}
    found: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return found
