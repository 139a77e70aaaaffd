"""Quantize: a converted model gets smaller numbers, by the function that the options name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.stages import StageResult, function
from crosscast.targets.base import SAID, read_notes


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Call `options["function"]` on the tree `model`, and on `samples` and the target's own limits
    `parity` where they are given.
    """
    function(options["function"])(
        model=inputs["model"],
        options=options["options"],
        samples=inputs.get("samples"),
        out=out,
        **({"parity": options["parity"]} if "parity" in options else {}),
    )
    said = read_notes(out).get(SAID)
    return StageResult(notes={"reason": said} if said else {})
