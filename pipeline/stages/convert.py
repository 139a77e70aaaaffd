"""Convert: a model tree becomes another format, by the function that the options name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.stages import StageResult, function


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Call `options["function"]` on the tree `model` with `options["options"]`."""
    function(options["function"])(model=inputs["model"], options=options["options"], out=out)
    return StageResult()
