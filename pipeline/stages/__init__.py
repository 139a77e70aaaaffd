"""One module a stage. A stage is a pure function that a worker runs:

    run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult

It sees only `inputs` (trees and the user's files), writes only under `out`, and raises
CrosscastError for what a user can mend.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STAGES: Mapping[str, str] = {
    name: f"crosscast.pipeline.stages.{name}"
    for name in (
        "samples",
        "reference",
        "export",
        "simplify",
        "convert",
        "quantize",
        "verify",
        "package",
        "benchmark",
    )
}


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage says of its work, beside the files it wrote.

    dependencies: the user's own files that were read without being declared (imported modules,
        external data), as absolute paths; a change of one of them runs the step again.
    notes: facts for the people who read logs (an exporter that fell back, and why).
    """

    dependencies: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


def function(reference: str) -> Any:
    """The function that "package.module:name" names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def reference_to(function: Any) -> str:
    """The reference that `function` reads back; the same for every alias of one function."""
    return f"{function.__module__}:{function.__qualname__}"
