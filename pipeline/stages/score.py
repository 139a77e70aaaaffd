"""Stage: what the source itself scores on each labelled sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.samples import read_cases
from crosscast.pipeline.parity.scores import Answer, scores
from crosscast.pipeline.parity.task import SCORES
from crosscast.pipeline.signature import Signature
from crosscast.pipeline.sources import open_source
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.stages.reference import answer
from crosscast.pipeline.worker.usercode import own_files
from crosscast.targets.base import Session


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write `scores.json`: a list of the scores, one a sample.

    options: source, signature, outputs, as of the stage `reference`. task: metric, output and
    classes, as `scores` takes them. Raises StageError where the source refuses a sample or cannot
    be scored.
    """
    source, task = options["source"], options["task"]
    module = open_source(source)
    signature = module.signature(source=source, declared=Signature.from_json(options["signature"]))
    session = module.load(source=source, signature=signature, outputs=options["outputs"])
    found = scores(_answers(session, inputs["labelled"]), **task)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SCORES, found)
    mean = sum(found) / len(found)
    return StageResult(dependencies=(*module.dependencies(), *own_files()), notes={"mean": mean})


def _answers(session: Session, tree: Path) -> Iterator[Answer]:
    for case in read_cases(tree):
        assert case.label is not None
        yield Answer(case=case.name, outputs=answer(session, case), label=case.label)
