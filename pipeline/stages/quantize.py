"""Quantize: a converted model gets smaller numbers, by the function that the options name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.stages import StageResult, function
from crosscast.targets.base import KEPT, read_notes


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Call `options["function"]` on the tree `model`, and on `samples` where it is given."""
    function(options["function"])(
        model=inputs["model"],
        options=options["options"],
        samples=inputs.get("samples"),
        out=out,
    )
    told = read_notes(out).get(KEPT)
    return StageResult(notes={"reason": _said(told)} if told and "biases" in told else {})


def _said(kept: Mapping[str, Any]) -> str:
    """What was done for answers to stay what they are, in a line."""
    counts = [f"{len(kept[key])} {key}" for key in ("activations", "weights") if kept.get(key)]
    stays = f", and {' and '.join(counts)} stay in float" if counts else ""
    return f"int8 leaves answers little room: weights and biases are fitted to samples{stays}"
