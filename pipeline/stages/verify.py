"""Stage: the artifact run in its own runtime and held against the reference."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from crosscast.pipeline.errors import StageError, ToolchainError, Unproven
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.baseline import Baseline, gather, proves_nothing
from crosscast.pipeline.parity.chain import chained
from crosscast.pipeline.parity.conditioning import floor_db
from crosscast.pipeline.parity.io import delivered, given, restored
from crosscast.pipeline.parity.metrics import Extent, Numbers, compare
from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.tolerance import Tolerance, is_gated, tolerance
from crosscast.pipeline.parity.vectors import Vector, read_reference, read_signature
from crosscast.pipeline.parity.verdict import Audit, Row, Verdict, judge
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor, permute
from crosscast.pipeline.stages import StageResult, function
from crosscast.pipeline.worker.usercode import described
from crosscast.targets.base import Precision, Session, classes, read_notes, remark

VERDICT = "verdict.json"


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write `verdict.json`. An artifact that does not load, run or agree is a failed verdict, not
    an error of the stage. `before`, where it is given, is the tree of the verdict on what the
    artifact was quantized from.
    """
    reference = inputs["reference"]
    found = verify(
        artifact=inputs["model"],
        signature=read_signature(reference),
        vectors=lambda: read_reference(reference),
        options=options,
    )
    if "before" in inputs:
        text = (inputs["before"] / VERDICT).read_text(encoding="utf-8")
        found = chained(found, before=Verdict.from_json(json.loads(text)))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / VERDICT, found.to_json())
    return StageResult(notes={"status": found.status, "reason": found.reason})


def verify(
    *,
    artifact: Path,
    signature: Signature,
    vectors: Callable[[], Iterator[Vector]],
    options: Mapping[str, Any],
) -> Verdict:
    """The verdict on an artifact.

    signature, vectors: of the source, in its layout; the vectors are read several times.
    options: open, precision: references to the target's functions. no_runtime: why it cannot run
    here, or empty. precision_asked, empty for any. layout, io: of the artifact, and the dtype of
    its floats; None for the source's. narrowed: dtypes that it has in place of the source's.
    pixels: inputs that are images. labels: of the classes that it has to name. parity: the user's
    limits. explain: reference to the target's function that says why outputs may be off, or empty.
    Raises ToolchainError or ImportError where the runtime is not installed.
    """
    asked = _asked(artifact, options["precision_asked"])
    try:
        held: Precision = function(options["precision"])(artifact=artifact)
    except (ToolchainError, ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever reading the file raises is its fault
        problem = f"the artifact does not load: {_said(error)}"
        limits = tolerance(asked or "fp32", options["parity"])
        return judge(audit=Audit(asked=asked, delivered=""), tolerance=limits, problems=[problem])
    audit = Audit(
        asked=asked or held.delivered, delivered=held.delivered, weights=dict(held.weights)
    )
    limits = tolerance(held.delivered, options["parity"])
    if options["no_runtime"]:
        return judge(audit=audit, tolerance=limits, unproven=options["no_runtime"])
    try:
        session = function(options["open"])(artifact=artifact)
    except (ToolchainError, ImportError, MemoryError):
        raise
    except Unproven as error:
        return judge(audit=audit, tolerance=limits, unproven=error.message)
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises is the artifact's fault
        problem = f"the artifact does not load in its runtime: {_said(error)}"
        return judge(audit=audit, tolerance=limits, problems=[problem])
    if session is None:
        return judge(audit=audit, tolerance=limits, unproven="no runtime for it on this host")
    baseline = gather(vectors())
    trial = _Trial(
        session=session,
        signature=signature,
        layout=options["layout"],
        io=options["io"],
        narrowed=options["narrowed"],
        pixels=options["pixels"],
        labels=options["labels"],
        baseline=baseline,
        precision=held.delivered,
        limits=limits,
    )
    problems = trial.declared()
    try:
        rows = list(chain.from_iterable(trial.rows(vector, problems) for vector in vectors()))
    except Unproven as error:
        return judge(audit=audit, tolerance=limits, problems=problems, unproven=error.message)
    verdict = judge(
        audit=audit,
        tolerance=limits,
        outputs=[tensor.name for tensor in signature.outputs],
        rows=rows,
        problems=[*problems, *trial.refusals()],
        origins=baseline.origins,
        unproven=proves_nothing(vectors(), baseline=baseline, limits=limits),
    )
    if verdict.status == "failed" and options["explain"]:
        said = trial.explained(verdict, vectors(), function(options["explain"]), artifact)
        verdict = replace(verdict, reason="\n".join([verdict.reason, *said]))
    if verdict.status == "passed" and (told := remark(session)):
        verdict = replace(verdict, reason=f"{verdict.reason}; {told}")
    return replace(verdict, quantization=trial.quantization())


def _asked(artifact: Path, asked: str) -> str:
    """What the audit must find. A source that is quantized itself has no fp32 to deliver, and
    ships as it is: its export says so.
    """
    own: str = read_notes(artifact).get("precision", asked) if asked == "fp32" else asked
    return own


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """An artifact's session beside what it has to agree with."""

    session: Session
    signature: Signature
    layout: Layout | None
    io: str | None
    narrowed: Mapping[str, str]
    pixels: Sequence[str]
    labels: Sequence[str]
    baseline: Baseline
    precision: str
    limits: Tolerance
    refused: dict[str, list[str]] = field(default_factory=dict)

    def refusals(self) -> list[str]:
        """What the runtime said against running cases, each once."""
        return [
            f"case '{cases[0]}'{f' and {len(cases) - 1} more' if cases[1:] else ''}: "
            f"its runtime fails: {said}"
            for said, cases in self.refused.items()
        ]

    def declared(self) -> list[str]:
        """What the artifact declares otherwise than the source, one line each."""
        wanted = self.signature.permuted(self.layout)
        inputs = delivered(wanted.inputs, io=self.io, narrowed=self.narrowed, pixels=self.pixels)
        outputs = delivered(wanted.outputs, io=self.io, narrowed=self.narrowed)
        return [
            *_compare_labels(classes(self.session), self.labels),
            *_compare_declared("input", self.session.inputs, inputs, wanted.dims),
            *_compare_declared("output", self.session.outputs, outputs, wanted.dims),
        ]

    def quantization(self) -> dict[str, tuple[float, int]]:
        """Scale and zero point of the inputs and outputs that have them, by name."""
        tensors = (*self.session.inputs, *self.session.outputs)
        return {tensor.name: tensor.quantization for tensor in tensors if tensor.quantization}

    def explained(
        self,
        verdict: Verdict,
        vectors: Iterator[Vector],
        explain: Callable[..., list[str]],
        artifact: Path,
    ) -> list[str]:
        """What the target says of the worst case, in lines."""
        case = next((it.case for it in vectors if it.case.name == verdict.worst_case), None)
        return [] if case is None else explain(artifact=artifact, inputs=self._inputs(case))

    def rows(self, vector: Vector, problems: list[str]) -> Iterator[Row]:
        """The comparison of each output of a case; a refusal to run goes to `refused`."""
        case = vector.case
        wanted = permute(vector.outputs, tensors=self.signature.outputs, layout=self.layout)
        try:
            got = self.session.run(self._inputs(case))
            found = self._restored(got)
        except (MemoryError, Unproven):
            raise
        except Exception as error:  # noqa: BLE001 - the artifact must take every case
            self.refused.setdefault(_said(error), []).append(case.name)
            return
        problems.extend(text for text in self._named(list(found)) if text not in problems)
        for tensor in self.signature.outputs:
            noise = vector.noise.get(self.precision, {}).get(tensor.name)
            yield self._row(case, tensor.name, wanted, found, noise)

    def _named(self, found: list[str]) -> list[str]:
        """What is wrong with the names of outputs and their order."""
        wanted = [tensor.name for tensor in self.signature.outputs]
        if found != wanted and set(found) == set(wanted):
            return [f"outputs come in the order {found}, not {wanted}"]
        return [f"output '{name}' is none of the source's" for name in found if name not in wanted]

    def _restored(self, got: Arrays) -> Arrays:
        """The outputs in the dtypes that the source gives, where the artifact has others."""
        found = {name: np.asarray(array) for name, array in got.items()}
        if self.io is None and not self.narrowed:
            return found
        declared = {tensor.name: tensor for tensor in self.session.outputs}
        wanted = [tensor for tensor in self.signature.outputs if tensor.name in declared]
        return found | {
            tensor.name: restored(
                found[tensor.name], tensor=declared[tensor.name], dtype=tensor.dtype
            )
            for tensor in wanted
            if tensor.name in found
        }

    def _inputs(self, case: Case) -> Arrays:
        # copies, since a runtime may write into what it is given
        copies = {name: array.copy() for name, array in case.arrays.items()}
        fed = permute(copies, tensors=self.signature.inputs, layout=self.layout)
        if self.io is not None or self.narrowed:
            return given(fed, tensors=self.session.inputs)
        return {tensor.name: fed[tensor.name] for tensor in self.signature.inputs}

    def _row(
        self, case: Case, output: str, wanted: Arrays, found: Arrays, noise: float | None
    ) -> Row:
        typical = self.baseline.typical[output]
        floor = math.inf
        if noise is not None:
            floor = floor_db(noise, own=Extent.of(wanted[output]), typical=typical)
        if output in found:
            numbers = compare(wanted[output], found[output], typical=typical)
        else:
            numbers = Numbers(problem="missing")
        return Row(
            case=case.name,
            output=output,
            origin=case.origin,
            gated=is_gated(
                case.origin,
                precision=self.precision,
                has_real=self.baseline.has_real,
                floor_db=floor,
                limits=self.limits,
            ),
            numbers=numbers,
            floor_db=None if noise is None else floor,
        )


def _compare_labels(found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    if len(found) != len(wanted):
        return [f"the artifact names {len(found)} classes, the config {len(wanted)}"]
    pairs = enumerate(zip(found, wanted, strict=True))
    wrong = [(place, its, mine) for place, (its, mine) in pairs if its != mine]
    return [
        f"the artifact calls class {place} '{its}', not '{mine}'" for place, its, mine in wrong[:1]
    ]


def _compare_declared(
    side: str,
    found: Sequence[Tensor],
    wanted: Sequence[Tensor],
    dims: Mapping[str, tuple[int, int]],
) -> list[str]:
    names = [tensor.name for tensor in found], [tensor.name for tensor in wanted]
    if names[0] != names[1]:
        return [f"the artifact declares the {side}s {names[0]}, the source has {names[1]}"]
    lines = []
    for mine, its in zip(wanted, found, strict=True):
        if mine.dtype != its.dtype:
            lines.append(
                f"{side} '{mine.name}' is declared {its.dtype}, the source has {mine.dtype}"
            )
        if not _covers(its.shape, mine.shape, dims):
            lines.append(
                f"{side} '{mine.name}' is declared with shape {_text(its.shape)},"
                f" expected {_text(mine.shape)}"
            )
    return lines


def _covers(
    found: Sequence[int | str], wanted: Sequence[int | str], dims: Mapping[str, tuple[int, int]]
) -> bool:
    """Whether a declared shape takes all that is wanted; one that takes more is no harm, and what
    really comes out is compared case by case.
    """
    if len(found) != len(wanted):
        return False
    for its, mine in zip(found, wanted, strict=True):
        low, high = (mine, mine) if isinstance(mine, int) else dims.get(mine, (0, 1))
        if isinstance(its, int) and not low == its == high:
            return False
    return True


def _said(error: Exception) -> str:
    text = error.message if isinstance(error, StageError) else described(error)
    return " ".join(text.split())


def _text(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join(str(dim) for dim in shape) + ")"
