"""Stage: where an artifact's error comes from, by its tensors and those of the float network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import CrosscastError, ToolchainError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.baseline import gather
from crosscast.pipeline.parity.divergence import Comparison
from crosscast.pipeline.parity.explanation import Explanation
from crosscast.pipeline.parity.io import given
from crosscast.pipeline.parity.metrics import compare
from crosscast.pipeline.parity.tolerance import excess
from crosscast.pipeline.parity.vectors import Vector, read_reference, read_signature
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import permute
from crosscast.pipeline.sources.torch_lines import Lines
from crosscast.pipeline.stages import StageResult, function
from crosscast.pipeline.worker.usercode import described
from crosscast.targets.base import Tap


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write `explanation.json`: where the error of the verdict's worst case comes from.

    inputs: `model`, the artifact; `reference`, what it was held against; `verdict`, what came of
    it; `exported`, the ONNX tree that is the float network; `program`, the torch program which that
    was exported from, where there is one.
    options: open, taps: references to the target's functions. layout, io, narrowed: as `verify`
    has them. instead: where the artifact shows no tensors, the target that `model` is of, which it
    was made from; empty otherwise.
    """
    text = (inputs["verdict"] / "verdict.json").read_text(encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    verdict = Verdict.from_json(json.loads(text))
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        found = explain(inputs=inputs, options=options, verdict=verdict, scratch=Path(scratch))
    write_json(out / "explanation.json", found.to_json())
    return StageResult()


def explain(
    *, inputs: Mapping[str, Path], options: Mapping[str, Any], verdict: Verdict, scratch: Path
) -> Explanation:
    """The explanation of a verdict's worst case; see `run`. scratch: a folder for its tensors."""
    from crosscast.targets.families.onnx_pieces import Pieces

    case = verdict.worst_case
    vector = next((it for it in read_reference(inputs["reference"]) if it.case.name == case), None)
    if vector is None:
        return Explanation(case=case, problem="nothing could be compared")
    lines = Lines.read(inputs["program"]) if "program" in inputs else Lines()
    comparison = Comparison(
        network=Pieces(inputs["exported"], scratch=scratch),
        line=lambda made: lines.of(made.name, made.node),
    )
    try:
        return _explained(comparison, vector, inputs, options, verdict)
    except (ToolchainError, ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a broken artifact may do anything as it runs
        said = error.message if isinstance(error, CrosscastError) else described(error)
        return Explanation(case=case, problem=f"where the error comes from is not known: {said}")


def _explained(
    comparison: Comparison,
    vector: Vector,
    inputs: Mapping[str, Path],
    options: Mapping[str, Any],
    verdict: Verdict,
) -> Explanation:
    case, signature = vector.case, read_signature(inputs["reference"])
    fed = permute(case.arrays, tensors=signature.inputs, layout=options["layout"])
    comparison.measure(fed)
    wanted = permute(vector.outputs, tensors=signature.outputs, layout=options["layout"])
    typical = gather(read_reference(inputs["reference"])).typical
    for name, array in wanted.items():
        if array.dtype.kind == "f" and name in comparison.clean:
            numbers = compare(array, comparison.clean[name], typical=typical[name])
            if why := excess(numbers, verdict.tolerance):
                return Explanation(case=case.name, problem=_export_at_fault(name, case.name, why))

    def see(tap: Tap) -> None:
        comparison.see(tap.called, tap.array, f"{tap.operator} '{tap.name}' ({tap.layer})")

    session = function(options["open"])(artifact=inputs["model"])
    own = given(dict(fed), tensors=session.inputs)
    function(options["taps"])(artifact=inputs["model"], inputs=own, tell=see)
    found = comparison.explained(case.name)
    problem = found.problem or _by_runtime(found, verdict)
    return replace(found, problem="\n".join(filter(None, [_instead(options["instead"]), problem])))


def _instead(target: str) -> str:
    """Whose tensors are told of, where they are not the artifact's own."""
    return target and f"it shows no tensors; those of '{target}', which it is made from, say:"


def _export_at_fault(output: str, case: str, why: str) -> str:
    return (
        f"the export to ONNX is at fault: it differs from the source itself in output '{output}', "
        f"case '{case}': {why}"
    )


def _by_runtime(found: Explanation, verdict: Verdict) -> str:
    """That the runtime's optimisations are at fault, where without them nothing is wrong."""
    limit = verdict.tolerance.min_snr_db
    if verdict.status != "failed" or found.outputs_db is None or found.outputs_db < limit:
        return ""
    said = [row.numbers.snr_db for row in verdict.worst.values() if row.numbers.snr_db is not None]
    if not said or min(said) >= limit:
        return ""
    return (
        f"operator by operator the outputs keep {found.outputs_db:.1f} dB: what is wrong is done "
        "by the runtime's optimisations or by what reads the outputs"
    )
