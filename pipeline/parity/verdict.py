"""Verdicts: what was compared, by which limits, and what follows. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self, get_args

from crosscast.pipeline.parity.metrics import Numbers
from crosscast.pipeline.parity.samples import Origin
from crosscast.pipeline.parity.task import TaskResult
from crosscast.pipeline.parity.tolerance import Tolerance, excess

Status = Literal["passed", "failed", "unverified"]

MOST_LINES = 10
"""Lines of a reason; the rest is counted."""

MOST_WIDE = 0.5
"""Share of the weights that operators compute with, by bytes, that may be wider than was asked
for: a file is called by what most of it is, as it is by all of its weights. A share of operators
would say little: those of depthwise convolutions are most of some networks' layers and a twentieth
of their weights (EfficientNet-Lite0 in Core ML: 26 of 50 operators stay in fp16, 9 % of bytes).
"""

MOST_NAMED = 5
"""Operators that a line names."""

NEAR_DB = 6.0
"""Below the limit: rounding may be the cause. What is further off computes something else."""


@dataclass(frozen=True, kw_only=True)
class FellBack:
    """An operator whose weights are kept wider than was asked for.

    name: in the file. op: its type there. precision: what its weights are kept in. share: of the
    bytes of all weights that operators compute with.
    """

    name: str
    op: str
    precision: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The precision that was asked for and the one that was delivered.

    delivered: empty where the file could not be read.
    weights: bytes of weights by dtype.
    ops: number of operators that sum products (convolutions, matrix products, recurrent layers) by
        what they compute in: "int8"; or "int8 weights", which are made wider to compute with.
    fell_back: those of them whose weights are kept wider than was asked for, largest first.
    problems: parameters of quantization that no quantizer may write, one line each.
    """

    asked: str
    delivered: str
    weights: Mapping[str, int] = field(default_factory=dict)
    ops: Mapping[str, int] = field(default_factory=dict)
    fell_back: tuple[FellBack, ...] = ()
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        values = asdict(self)
        return {**values, "fell_back": list(values["fell_back"]), "problems": list(self.problems)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        fell_back = tuple(FellBack(**entry) for entry in value["fell_back"])
        return cls(**{**value, "fell_back": fell_back, "problems": tuple(value["problems"])})


class Row(NamedTuple):
    """One output of one case.

    gated: whether its numbers were held to the limits. floor_db: what the source itself keeps of
    the output where its inputs are rounded (see `conditioning`); None where that was not measured.
    """

    case: str
    output: str
    origin: Origin
    gated: bool
    numbers: Numbers
    floor_db: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form; infinite numbers are the strings "inf" and "-inf"."""
        numbers = {key: _encoded(value) for key, value in self.numbers._asdict().items()}
        return {**self._asdict(), "numbers": numbers, "floor_db": _encoded(self.floor_db)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        numbers = {key: _decoded(entry) for key, entry in value["numbers"].items()}
        floor = _decoded(value.get("floor_db"))
        return cls(**{**value, "numbers": Numbers(**numbers), "floor_db": floor})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether an artifact does what its source does.

    reason: one line for each thing that is wrong, or what was proven.
    origins: number of cases by origin.
    worst: the worst case of each output, by output.
    rows: every comparison, its numbers rounded so that they are the same on every run.
    quantization: scale and zero point of the artifact's integer inputs and outputs that stand for
        the source's floats, by name.
    task: what it is worth on labelled samples; None where that was not asked or not found out.
    """

    status: Status
    reason: str
    audit: Audit
    tolerance: Tolerance
    origins: Mapping[str, int] = field(default_factory=dict)
    worst: Mapping[str, Row] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    quantization: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    task: TaskResult | None = None

    def joined(self, status: Status, reason: str, *, task: TaskResult | None = None) -> Self:
        """The verdict with what else was found: the worse of both, and why it is that."""
        order = ("failed", "unverified", "passed")
        worse = min(self.status, status, key=order.index)
        found = ((self.status, self.reason), (status, reason))
        said = [text for its, text in found if its == worse]
        between = "; " if worse == "passed" else "\n"
        return replace(self, status=worse, reason=between.join(said), task=task)

    @property
    def worst_case(self) -> str:
        """The case that is furthest off; empty where none was compared."""
        rows = list(self.worst.values())
        return min(rows, key=_badness).case if rows else ""

    @property
    def inputs(self) -> str:
        """What it was compared on: "6 real, 2 swept, 4 adversarial"."""
        return summary(self.origins)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back.

        Its `parity` are the limits to verify the artifact with again, {} for the defaults.
        """
        return {
            "status": self.status,
            "reason": self.reason,
            "precision": self.audit.to_json(),
            "parity": _overrides(self.tolerance),
            "tolerance": {key: _encoded(value) for key, value in asdict(self.tolerance).items()},
            "inputs": self.inputs,
            "origins": dict(self.origins),
            "worst": {output: row.to_json() for output, row in self.worst.items()},
            "cases": [row.to_json() for row in self.rows],
            "quantization": {name: list(pair) for name, pair in self.quantization.items()},
            "task": None if self.task is None else self.task.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        limits = {key: _decoded(entry) for key, entry in value["tolerance"].items()}
        return cls(
            status=value["status"],
            reason=value["reason"],
            audit=Audit.from_json(value["precision"]),
            tolerance=Tolerance(**limits),
            origins=value["origins"],
            worst={output: Row.from_json(row) for output, row in value["worst"].items()},
            rows=tuple(Row.from_json(row) for row in value["cases"]),
            quantization={name: (pair[0], pair[1]) for name, pair in value["quantization"].items()},
            task=None if value["task"] is None else TaskResult.from_json(value["task"]),
        )


def judge(
    *,
    audit: Audit,
    tolerance: Tolerance,
    outputs: Sequence[str] = (),
    rows: Sequence[Row] = (),
    problems: Sequence[str] = (),
    origins: Mapping[str, int] | None = None,
    unproven: str = "",
) -> Verdict:
    """Decide.

    problems: what is wrong beside the numbers (a declared shape, a runtime's refusal), each one
        line. unproven: why the comparison proves nothing or could not be made.

    An artifact with anything wrong has failed. It passes only if each of the `outputs` was
    compared in a gated case and nothing says that this proves nothing.
    """
    wrong = [*_audited(audit), *problems, *_failures(rows, tolerance)]
    unseen = [name for name in outputs if not any(r.gated and r.output == name for r in rows)]
    if not unproven and (unseen or not outputs):
        unproven = f"no case was compared for {', '.join(unseen) or 'any output'}"
    status: Status = "failed" if wrong else "unverified" if unproven else "passed"
    kept = tuple(_rounded(row) for row in rows)
    worst = {output: min(_of(kept, output), key=_badness) for output in _outputs(kept)}
    origins = dict(origins or {})
    reason = _lines(wrong) if wrong else unproven or _proven(origins, worst, kept)
    return Verdict(
        status=status,
        reason=reason,
        audit=audit,
        tolerance=tolerance,
        origins=origins,
        worst=worst,
        rows=kept,
    )


def summary(origins: Mapping[str, int]) -> str:
    """As in "6 real, 2 swept, 4 adversarial"; says so where no input was a real one."""
    counts = [f"{origins[name]} {name}" for name in get_args(Origin) if origins.get(name)]
    if not counts:
        return "none"
    text = ", ".join(counts)
    return text if origins.get("real") else f"synthetic inputs only: {text}"


def _audited(audit: Audit) -> list[str]:
    return [*_short(audit), *audit.problems]


def _short(audit: Audit) -> list[str]:
    """What is said where less than was asked for was delivered: of all weights, or of those that
    operators compute with, such as where a table of embeddings is most of a model.
    """
    if not audit.delivered:
        return []
    named = _named(audit.fell_back)
    if audit.delivered != audit.asked:
        total = sum(audit.weights.values())
        shares = ", ".join(
            f"{dtype} {100 * size / total:.0f} %"
            for dtype, size in sorted(audit.weights.items(), key=lambda item: (-item[1], item[0]))
            if size
        )
        held = f" (weights: {shares})" if shares else ""
        return [f"{audit.asked} was asked for, {audit.delivered} was delivered{held}{named}"]
    wide = sum(entry.share for entry in audit.fell_back)
    if wide <= MOST_WIDE:
        return []
    return [
        f"{audit.asked} was asked for, and {100 * wide:.0f} % of the weights that operators "
        f"compute with are wider{named}"
    ]


def _named(fell_back: Sequence[FellBack]) -> str:
    """The largest of the operators that fell back, and how many more there are."""
    told = [
        f"'{entry.name}' ({entry.op}, {entry.precision}, {100 * entry.share:.0f} %)"
        for entry in fell_back[:MOST_NAMED]
    ]
    more = len(fell_back) - len(told)
    end = f" and {more} more" if more else ""
    return f": {', '.join(told)}{end}" if told else ""


def _failures(rows: Sequence[Row], limits: Tolerance) -> list[str]:
    """A line for each output that is out of its limits, about its worst case."""
    lines = []
    for output in _outputs(rows):
        own = _of(rows, output)
        failed = [(row, why) for row in own if (why := _why(row, limits))]
        if failed:
            row, why = min(failed, key=lambda item: _badness(item[0]))
            more = f" (and {len(failed) - 1} more cases)" if len(failed) > 1 else ""
            lines.append(
                f"output '{output}', case '{row.case}': {why}{more}; {_advice(row, limits)}"
            )
        lines.extend(_mismatched(own, limits))
    return lines


def _why(row: Row, limits: Tolerance) -> str:
    """What is wrong with a row; empty if nothing is."""
    if not row.gated or row.numbers.mismatch is not None:
        return row.numbers.problem
    return excess(row.numbers, limits)


def _mismatched(rows: Sequence[Row], limits: Tolerance) -> list[str]:
    """Integers are judged over all cases: one near tie is all of a case with one element."""
    counted = [
        (row, row.numbers.mismatch)
        for row in rows
        if row.gated and row.numbers.mismatch is not None
    ]
    elements = sum(row.numbers.elements for row, _ in counted)
    unequal = sum(share * row.numbers.elements for row, share in counted)
    overall = Numbers(mismatch=unequal / elements if elements else 0.0)
    why = excess(overall, limits)
    if not why:
        return []
    row = min((row for row, _ in counted), key=_badness)
    return [f"output '{row.output}', worst in case '{row.case}': {why}; {_advice(row, limits)}"]


def _advice(row: Row, limits: Tolerance) -> str:
    if row.origin == "adversarial":
        return "if such inputs cannot occur, declare the range of those that can"
    snr_db = row.numbers.snr_db
    if snr_db is not None and snr_db > limits.min_snr_db - NEAR_DB:
        return (
            "try a wider precision (for int8 also calibration samples more like this case), or a"
            " limit of this target's own with a reason"
        )
    return "suspect layout, order of channels, weights or value range; try another route or opset"


def _outputs(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.output for row in rows))


def _of(rows: Sequence[Row], output: str) -> list[Row]:
    return [row for row in rows if row.output == output]


def _badness(row: Row) -> tuple[bool, bool, float, float]:
    """A key that sorts the worst first: problems, then gated rows, then by their numbers."""
    numbers = row.numbers
    snr_db = math.inf if numbers.snr_db is None else numbers.snr_db
    error = numbers.max_error if numbers.mismatch is None else numbers.mismatch
    return (not numbers.problem, not row.gated, snr_db, -(error or 0.0))


def _rounded(row: Row) -> Row:
    """Fewer digits than the last bits of threaded sums can reach."""
    numbers = row.numbers
    return Row(
        case=row.case,
        output=row.output,
        origin=row.origin,
        gated=row.gated,
        floor_db=_digits(row.floor_db, ".0f"),
        numbers=Numbers(
            problem=numbers.problem,
            elements=numbers.elements,
            snr_db=_digits(numbers.snr_db, ".1f"),
            max_error=_digits(numbers.max_error, ".2g"),
            cosine=_digits(numbers.cosine, ".5f"),
            agreement=_digits(numbers.agreement, ".4f"),
            mismatch=_digits(numbers.mismatch, ".3g"),
        ),
    )


def _digits(value: float | None, form: str) -> float | None:
    # the sum turns -0.0 into 0.0
    return None if value is None else float(format(value, form)) + 0.0


def _proven(origins: Mapping[str, int], worst: Mapping[str, Row], rows: Sequence[Row]) -> str:
    parts = []
    for output, row in worst.items():
        numbers = row.numbers
        if numbers.snr_db is not None:
            parts.append(f"'{output}' {numbers.snr_db:.1f} dB")
        elif numbers.mismatch is not None:
            parts.append(f"'{output}' {numbers.mismatch:.3g} unequal")
    return f"{summary(origins)}; at worst {', '.join(parts)}{_loose(rows)}"


def _loose(rows: Sequence[Row]) -> str:
    """The cases that were held to no limit, since the source itself keeps too little there."""
    cases = dict.fromkeys(row.case for row in rows if row.floor_db is not None and not row.gated)
    if not cases:
        return ""
    named = ", ".join(f"'{case}'" for case in cases)
    return f"; not judged by numbers: {named}, where rounded inputs change the source's own outputs"


def _lines(wrong: Sequence[str]) -> str:
    more = [f"and {len(wrong) - MOST_LINES} more"] if len(wrong) > MOST_LINES else []
    return "\n".join([*wrong[:MOST_LINES], *more])


def _overrides(limits: Tolerance) -> dict[str, Any]:
    """What gives these limits again, as the `overrides` of `tolerance()`."""
    if not limits.override:
        return {}
    values = {key: value for key, value in asdict(limits).items() if isinstance(value, float)}
    return {**values, "reason": limits.override}


def _encoded(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decoded(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf", "nan") else value
