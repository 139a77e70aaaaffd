"""Stage: the artifact run in its own runtime and held against the reference."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import ToolchainError, Unproven
from crosscast.pipeline.manifest import LABELLED, write_json
from crosscast.pipeline.parity import gains
from crosscast.pipeline.parity.baseline import proves_nothing
from crosscast.pipeline.parity.chain import chained
from crosscast.pipeline.parity.samples import read_cases
from crosscast.pipeline.parity.scores import scores
from crosscast.pipeline.parity.streams import states
from crosscast.pipeline.parity.task import SCORES, Accepted, Labelled, compared
from crosscast.pipeline.parity.tolerance import coarsest, tolerance
from crosscast.pipeline.parity.vectors import Vector, read_reference, read_signature
from crosscast.pipeline.parity.verdict import Audit, FellBack, Verdict, judge
from crosscast.pipeline.signature import Signature
from crosscast.pipeline.stages import StageResult, function
from crosscast.pipeline.stages.trial import Trial, complaint
from crosscast.pipeline.worker.usercode import own_files
from crosscast.targets.base import ADVICE, PRECISION, SAID, Precision, read_notes, remark

VERDICT = "verdict.json"


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write `verdict.json`. An artifact that does not load, run or agree is a failed verdict, not
    an error of the stage.

    Where there are the inputs `labelled` and `scores` (of the stage `score`), it is judged by its
    task as well, as `options["task"]` accepts it. `before`, where it is given, is the tree of the
    verdict on what the artifact was quantized from, and `floats` that itself.
    """
    reference = inputs["reference"]
    found = verify(
        artifact=inputs["model"],
        signature=read_signature(reference),
        vectors=lambda: read_reference(reference),
        options=options,
        labelled=_labelled(inputs, options["task"]) if "labelled" in inputs else None,
        floats=inputs.get("floats"),
    )
    if "before" in inputs:
        text = (inputs["before"] / VERDICT).read_text(encoding="utf-8")
        found = chained(found, before=Verdict.from_json(json.loads(text)))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / VERDICT, found.to_json())
    notes = {"status": found.status, "reason": found.reason}
    return StageResult(dependencies=own_files(), notes=notes)


def verify(
    *,
    artifact: Path,
    signature: Signature,
    vectors: Callable[[], Iterator[Vector]],
    options: Mapping[str, Any],
    labelled: Labelled | None = None,
    floats: Path | None = None,
) -> Verdict:
    """The verdict on an artifact.

    signature, vectors: of the source, in its layout; the vectors are read several times.
    options: open, precision: references to the target's functions. no_runtime: why it cannot run
    here, or empty. precision_asked: empty for any. computes: the precision that it computes in,
    where its weights do not tell. layout, io: of the artifact, and the dtype of its floats; None
    for the source's. narrowed: dtypes that it has in place of the source's. pixels: inputs that are
    images. labels: of the classes that it has to name. parity: the user's limits. explain:
    reference to the target's function that says why outputs may be off, or empty.
    labelled: what its task is judged on as well, where the config asks for it.
    floats: the tree that it was quantized from, which its weights are held against; the option
    `weights` is then a reference to the target's function that reads what constants stand for.
    Raises ToolchainError or ImportError where the runtime is not installed.
    """
    asked = _asked(artifact, options["precision_asked"])
    try:
        held: Precision = function(options["precision"])(artifact=artifact)
        if floats is not None:
            weights = function(options["weights"])
            off = gains.problems(weights(artifact=artifact), weights(artifact=floats))
            held = replace(held, problems=(*held.problems, *off))
    except (ToolchainError, ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever reading the file raises is its fault
        problem = f"the artifact does not load: {complaint(error)}"
        limits = tolerance(asked or "fp32", options["parity"])
        return judge(audit=Audit(asked=asked, delivered=""), tolerance=limits, problems=[problem])
    audit = _audit(asked or held.delivered, held)
    own = read_notes(artifact).get(PRECISION, "")
    held_to = coarsest(held.delivered, options.get("computes", ""), own)
    limits = tolerance(held_to, options["parity"])
    if options["no_runtime"]:
        return judge(audit=audit, tolerance=limits, unproven=options["no_runtime"])
    try:
        session = function(options["open"])(artifact=artifact)
    except (ToolchainError, ImportError, MemoryError):
        raise
    except Unproven as error:
        return judge(audit=audit, tolerance=limits, unproven=error.message)
    except Exception as error:  # noqa: BLE001 - whatever the runtime raises is the artifact's fault
        problem = f"the artifact does not load in its runtime: {complaint(error)}"
        return judge(audit=audit, tolerance=limits, problems=[problem])
    if session is None:
        return judge(audit=audit, tolerance=limits, unproven="no runtime for it on this host")
    trial = Trial(
        session=session,
        signature=signature,
        layout=options["layout"],
        io=options["io"],
        narrowed=options["narrowed"],
        pixels=options["pixels"],
        labels=options["labels"],
        precision=held.delivered,
        limits=limits,
        own=states(signature),
    )
    problems = trial.declared()
    try:
        baseline, rows = trial.held_against(vectors)
    except Unproven as error:
        return judge(audit=audit, tolerance=limits, problems=problems, unproven=error.message)
    verdict = judge(
        audit=audit,
        tolerance=limits,
        outputs=[tensor.name for tensor in signature.outputs],
        rows=rows,
        problems=[*problems, *trial.problems, *trial.refusals()],
        origins=baseline.origins,
        unproven=proves_nothing(trial.reread(vectors), baseline=baseline, limits=limits),
    )
    if verdict.status == "failed" and options["explain"]:
        said = trial.explained(verdict, vectors(), function(options["explain"]), artifact)
        verdict = replace(verdict, reason="\n".join([verdict.reason, *said]))
    if verdict.status == "passed" and (told := remark(session)):
        verdict = replace(verdict, reason=f"{verdict.reason}; {told}")
    verdict = _told(verdict, read_notes(artifact))
    verdict = replace(verdict, quantization=trial.quantization())
    return _with_task(verdict, trial, labelled) if labelled else verdict


def _labelled(inputs: Mapping[str, Path], task: Mapping[str, Any]) -> Labelled:
    tree = inputs["labelled"]
    told = json.loads((tree / LABELLED).read_text(encoding="utf-8"))
    return Labelled(
        cases=lambda: read_cases(tree),
        source=json.loads((inputs["scores"] / SCORES).read_text(encoding="utf-8")),
        sha256=told["sha256"],
        accepted=Accepted(**task),
    )


def _with_task(verdict: Verdict, trial: Trial, labelled: Labelled) -> Verdict:
    """The verdict with what the artifact is worth at its task."""
    accepted = labelled.accepted
    try:
        found = scores(
            trial.answers(labelled.cases()),
            metric=accepted.metric,
            output=accepted.output or trial.signature.outputs[0].name,
            classes=accepted.classes,
        )
    except MemoryError:
        raise
    except Unproven as error:
        return verdict.joined("unverified", error.message)
    except Exception as error:  # noqa: BLE001 - the source could be scored, so it is the artifact
        return verdict.joined("failed", f"it cannot be scored as the source: {complaint(error)}")
    result = compared(labelled.source, found, accepted=accepted, sha256=labelled.sha256)
    return verdict.joined(result.status, result.reason, task=result)


def _told(verdict: Verdict, notes: Mapping[str, Any]) -> Verdict:
    """The verdict with what the artifact's makers have to say: of what passed, how it came to it,
    and of what failed, what to try.
    """
    key, joint = (SAID, "; ") if verdict.status == "passed" else (ADVICE, "\n")
    said = notes.get(key) if verdict.status in ("passed", "failed") else ""
    return replace(verdict, reason=f"{verdict.reason}{joint}{said}") if said else verdict


def _asked(artifact: Path, asked: str) -> str:
    """What the audit must find. A source that is quantized itself has no fp32 to deliver, and
    ships as it is: its export says so.
    """
    own: str = read_notes(artifact).get(PRECISION, asked) if asked == "fp32" else asked
    return own


def _audit(asked: str, held: Precision) -> Audit:
    """What was found of a file, held against what was asked for."""
    wide = [entry for entry in held.operators if entry.fell_back(asked)]
    total = sum(entry.size for entry in held.operators)
    return Audit(
        asked=asked,
        delivered=held.delivered,
        weights=dict(held.weights),
        ops=dict(sorted(Counter(entry.form for entry in held.operators).items())),
        fell_back=tuple(
            FellBack(
                name=entry.name,
                op=entry.operator,
                precision=str(entry.stored),
                share=round(entry.size / total, 4),
            )
            for entry in sorted(wide, key=lambda entry: -entry.size)
        ),
        problems=held.problems,
    )
