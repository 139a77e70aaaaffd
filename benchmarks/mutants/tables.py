"""The tables: mutants x targets, what was let by, the bits that are found, and the margins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from crosscast.targets import TARGETS
from mutants import margins, results
from mutants.matrix import Row
from mutants.mutate import NO_CHANGE_DB

RESULTS = results.PATH.parent


def write(rows: Sequence[Row]) -> None:
    """Write both tables."""
    _write(RESULTS / "mutations.md", mutations(rows))
    _write(RESULTS / "margins.md", margins.table(rows))


def summary(rows: Sequence[Row]) -> str:
    """What was run, and what the gate did, in a line."""
    semantic = results.judged(rows, "semantic")
    models = {row.model for row in semantic}
    return (
        f"{len(semantic)} semantic mutants of {len(models)} models on"
        f" {len({row.target for row in semantic})} targets:"
        f" {len(results.survivors(rows))} passed."
        f" {len(results.honest(rows))} honest artifacts: {len(results.alarms(rows))} rejected"
        f"{_lossy(rows)}."
    )


def _lossy(rows: Sequence[Row]) -> str:
    count = sum((row.model, row.target) in results.LOSSY for row in results.honest(rows))
    return f", and {count} that its precision costs too much" if count else ""


def mutations(rows: Sequence[Row]) -> str:
    """mutations.md."""
    parts = [
        "# Mutants x targets",
        f"{summary(rows)} Made by `benchmarks/mutations.py`; what the words mean is in"
        " [docs/parity.md](../../docs/parity.md). A cell is rejected / applied, over models.",
        _matrix(rows, "semantic"),
        "Honest artifacts: the worst SNR in dB of the cases that count. A model that a target"
        " cannot take has a dash there, and why below; what is blank was not run.",
        _honest(rows),
        _refused(rows),
        "## Rejected only by what was quantized",
        "Their own numbers are within the limits of what was delivered: the noise of fewer bits"
        " hides what the mutation does. What the quantizer started from is judged as well, by"
        " the limits of its own precision, and was rejected.",
        _listed(it for it in results.judged(rows, "semantic") if it.status == "passed"),
        "## Calibrated on the wrong range",
        _matrix(results.calibrated(rows), "calibration"),
        "Passed, since a range that is too wide costs levels and no more; what is left is within"
        " the limits:",
        _listed(results.survivors(results.calibrated(rows), "calibration")),
        "## Damaged files",
        _damaged(),
        "## Single bits: the detection limit",
        "Found / flipped, one bit of one weight chosen at random; 0 is the least significant bit."
        " What is not found changes no output by more than the limits allow.",
        _bits(),
        "## What the mutations do to the float models",
        f"The SNR in dB of the worst output, in float32, over the cases that are not adversarial."
        f" At {NO_CHANGE_DB:g} dB and more nothing has changed, and there is no mutant.",
        _effects(),
    ]
    return "\n\n".join(parts) + "\n"


def _matrix(rows: Sequence[Row], group: str) -> str:
    judged = results.judged(rows, group)
    targets = [name for name in TARGETS if any(row.target == name for row in judged)]

    def cell(mutation: str, target: str) -> str:
        own = [row for row in judged if (row.mutation, row.target) == (mutation, target)]
        return f"{sum(map(results.rejected, own))}/{len(own)}" if own else ""

    return _grid("mutation", dict.fromkeys(row.mutation for row in judged), targets, cell)


def _honest(rows: Sequence[Row]) -> str:
    honest = {(row.model, row.target): row for row in rows if row.group == "honest"}
    targets = [name for name in TARGETS if any(target == name for _, target in honest)]

    def cell(model: str, target: str) -> str:
        row = honest.get((model, target))
        if row is None:
            return ""
        return {"passed": _db(row.snr_db), "unbuilt": "-"}.get(row.status, row.status)

    return _grid("model", dict.fromkeys(model for model, _ in honest), targets, cell)


def _refused(rows: Sequence[Row]) -> str:
    """Why targets could not take models, each reason once for a model."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.group == "honest" and row.status != "passed":
            reason = results.LOSSY.get((row.model, row.target), row.reason)
            found.setdefault((row.model, reason), []).append(f"`{row.target}`")
    return "\n".join(
        f"- `{model}` x {', '.join(targets)}: {reason}"
        for (model, reason), targets in found.items()
    )


def _effects() -> str:
    found = results.effects()
    names = dict.fromkeys(name for effects in found.values() for name in effects)

    def cell(mutation: str, model: str) -> str:
        effect = found[model].get(mutation, "")
        if effect == "not applicable":
            return ""
        return _db(effect) if isinstance(effect, float) else str(effect)

    return _grid("mutation", names, list(found), cell)


def _damaged() -> str:
    counts: dict[tuple[str, str], list[int]] = {}
    for targets in results.damage().values():
        for target, found in targets.items():
            for name, (rejected, done) in found["files"].items():
                count = counts.setdefault((name, target), [0, 0])
                count[:] = [count[0] + rejected, count[1] + done]
    targets = [name for name in TARGETS if any(target == name for _, target in counts)]

    def cell(name: str, target: str) -> str:
        rejected, done = counts.get((name, target), (0, 0))
        return f"{rejected}/{done}" if done else ""

    return _grid("damage", dict.fromkeys(name for name, _ in counts), targets, cell)


def _bits() -> str:
    counts: dict[tuple[int, str], list[int]] = {}
    for targets in results.damage().values():
        for target, found in targets.items():
            for dtype, bits in found["bits"].items():
                for bit, (rejected, done) in bits.items():
                    count = counts.setdefault((int(bit), f"{target}: {dtype}"), [0, 0])
                    count[:] = [count[0] + rejected, count[1] + done]
    columns = sorted({column for _, column in counts})

    def cell(bit: str, column: str) -> str:
        count = counts.get((int(bit), column))
        return f"{count[0]}/{count[1]}" if count else ""

    order = sorted({bit for bit, _ in counts}, reverse=True)
    return _grid("bit", map(str, order), columns, cell)


def _listed(rows: Iterable[Row]) -> str:
    lines = [
        f"- {row.mutation}: `{row.model}` x `{row.target}`, {_db(row.snr_db)} dB where"
        f" {row.limit_db:g} are asked for"
        + (f"; {_db(row.effect_db)} dB in float" if row.effect_db is not None else "")
        for row in rows
    ]
    return "\n".join(lines) or "None."


def _grid(
    corner: str,
    names: Iterable[str],
    columns: Sequence[str],
    cell: Callable[[str, str], str],
) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name in names:
        lines.append(f"| {name} | {' | '.join(cell(name, column) for column in columns)} |")
    return "\n".join(lines)


def _db(value: Any) -> str:
    return "exact" if value is None else f"{float(value):.1f}"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
