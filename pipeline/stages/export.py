"""Export: from the source to an exported program or an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.signature import Signature
from crosscast.pipeline.sources import open_source
from crosscast.pipeline.stages import StageResult


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write a tree of the kind `options["to"]` from the source, or from the tree `program`."""
    source = open_source(options["source"])
    declared = Signature.from_json(options["signature"])
    notes = source.export(
        to=options["to"],
        source=options["source"],
        signature=source.signature(source=options["source"], declared=declared),
        outputs=options["outputs"],
        opset=options["opset"],
        layout=options["layout"],
        program=inputs.get("program"),
        out=out,
    )
    return StageResult(dependencies=source.dependencies(), notes=notes)
