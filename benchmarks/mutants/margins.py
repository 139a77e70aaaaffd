"""The margins: how far the limits are from honest artifacts, and from the least wrong ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crosscast.pipeline.parity.tolerance import TOLERANCES
from crosscast.targets import TARGETS
from mutants import results
from mutants.matrix import Row

COVERAGE = results.PATH.parent / "coverage.json"


@dataclass(frozen=True, kw_only=True)
class Found:
    """An artifact and its SNR in dB."""

    snr_db: float
    name: str


def table(rows: Sequence[Row]) -> str:
    """margins.md."""
    lines = [
        "# Margins of the limits, in dB",
        "",
        "Made by `benchmarks/mutations.py`. Honest: the worst artifact that passed, of all models"
        " of [coverage.md](coverage.md) and of those of [mutations.md](mutations.md). Mutant: the"
        " semantic mutant that is nearest to its source, by its own numbers. Where a mutant of"
        " a quantized artifact is within the limit, it is the limit before quantization that"
        " rejects it: the last line, where the mutants' numbers are those of their float models.",
        "",
        "| delivered | limit | worst honest | margin | nearest mutant | margin |",
        "|---|---|---|---|---|---|",
    ]
    coverage = _coverage()
    for precision, limits in TOLERANCES.items():
        honest = _worst([*coverage.get(precision, []), *_honest(rows, precision)])
        lines.append(_line(precision, limits.min_snr_db, honest, _nearest(rows, precision)))
    lines.append(
        _line(
            "any, before quantization",
            TOLERANCES["fp32"].min_snr_db,
            _worst([*coverage.get("fp32", []), *_honest(rows, "fp32")]),
            _nearest_float(rows),
        )
    )
    return "\n".join(lines) + "\n"


def _line(name: str, limit: float, honest: Found | None, mutant: Found | None) -> str:
    cells = [name, f"{limit:g}"]
    for found, sign in ((honest, 1), (mutant, -1)):
        if found is None:
            cells += ["", ""]
        else:
            cells += [f"{found.snr_db:.1f} ({found.name})", f"{sign * (found.snr_db - limit):.1f}"]
    return f"| {' | '.join(cells)} |"


def _coverage() -> dict[str, list[Found]]:
    """By the precision that was asked for, what passed. What passed below its limit is of a source
    that is quantized itself, was delivered and judged as such, and is left out.
    """
    found: dict[str, list[Found]] = {}
    for entry in json.loads(Path(COVERAGE).read_text(encoding="utf-8")):
        asked = TARGETS[entry["target"]].precision_asked or "fp32"
        snr_db = entry["snr"]
        if (
            entry["status"] == "passed"
            and snr_db is not None
            and snr_db >= TOLERANCES[asked].min_snr_db
        ):
            name = f"{entry['model']}, {entry['target']}"
            found.setdefault(asked, []).append(Found(snr_db=snr_db, name=name))
    return found


def _honest(rows: Sequence[Row], precision: str) -> list[Found]:
    return [
        Found(snr_db=row.snr_db, name=f"{row.model}, {row.target}")
        for row in results.honest(rows)
        if (row.precision, row.status) == (precision, "passed") and row.snr_db is not None
    ]


def _nearest(rows: Sequence[Row], precision: str) -> Found | None:
    """The mutant of a precision with the best numbers."""
    return _best(
        Found(snr_db=row.snr_db, name=f"{row.mutation}: {row.model}, {row.target}")
        for row in results.judged(rows, "semantic")
        if row.precision == precision and row.snr_db is not None
    )


def _nearest_float(rows: Sequence[Row]) -> Found | None:
    """The mutant of a quantized artifact that was least wrong before."""
    return _best(
        Found(snr_db=float(row.effect_db), name=f"{row.mutation}: {row.model}, {row.target}")
        for row in results.judged(rows, "semantic")
        if row.float_status and row.effect_db is not None
    )


def _worst(found: Sequence[Found]) -> Found | None:
    return min(found, key=lambda it: it.snr_db, default=None)


def _best(found: Iterable[Found]) -> Found | None:
    return max(found, key=lambda it: it.snr_db, default=None)
