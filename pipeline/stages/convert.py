"""Convert: a model tree becomes another format, by the function that the options name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.stages import StageResult, function
from crosscast.targets.base import SAID, read_notes


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Call `options["function"]` on the tree `model` with `options["options"]`, and with `samples`
    and `about` where they are given. What it has to say of its result is in the tree's notes.
    """
    given: dict[str, Any] = {"samples": inputs["samples"]} if "samples" in inputs else {}
    given |= {"about": options["about"]} if "about" in options else {}
    function(options["function"])(
        model=inputs["model"], options=options["options"], out=out, **given
    )
    said = read_notes(out).get(SAID)
    return StageResult(notes={"reason": said} if said else {})
