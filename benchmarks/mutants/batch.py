"""Stage: another stage's work, done for each of many trees in one process.

A batch is a tree of trees, one for each mutant, by the mutation's name with dashes.
"""

from __future__ import annotations

import importlib
import random
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.stages import StageResult

FAILED = "failed.json"


def slug(mutation: str) -> str:
    """The name of a mutant's tree."""
    return mutation.replace(" ", "-")


def members(batch: Path) -> list[str]:
    """The names of the trees in a batch."""
    return sorted(path.name for path in batch.iterdir() if path.is_dir())


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Run the stage `options["module"]` with `options["options"]` for each member of the inputs
    named in `options["batched"]`; the other inputs are the same for all.

    What fails is left out, and FAILED says why, by its name.
    """
    stage = importlib.import_module(options["module"])
    batched = {name: inputs[name] for name in options["batched"]}
    failed: dict[str, str] = {}
    for member in members(next(iter(batched.values()))):
        given = dict(inputs) | {name: batch / member for name, batch in batched.items()}
        try:
            _alone(stage, given, options["options"], out / member)
        except Exception as error:  # noqa: BLE001 - the others go on
            traceback.print_exc()
            failed[member] = str(error) or type(error).__name__
            shutil.rmtree(out / member, ignore_errors=True)
    write_json(out / FAILED, failed)
    return StageResult(notes={"failed": sorted(failed)})


def _alone(stage: Any, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> None:
    missing = [path.name for path in inputs.values() if not path.exists()]
    if missing:
        raise FileNotFoundError("what it needs was not built")
    random.seed(0)  # as a worker does
    np.random.seed(0)
    out.mkdir()
    stage.run(inputs=inputs, options=options, out=out)
