"""Simplify: fold constants and fuse operators of an ONNX tree, or keep it as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.stages import StageResult
from crosscast.targets.families import onnx as family

if TYPE_CHECKING:
    from onnx import ModelProto

NOT_SIMPLIFIED = "not_simplified"
"""The key of notes.json that says why the original was kept."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:  # noqa: ARG001
    """Write the simplified model.

    A simplifier that fails, or whose result is invalid, of another opset or with other inputs or
    outputs, costs nothing but the simplification: the original is kept and the notes say why.
    """
    tree = inputs["model"]
    notes = {}
    try:
        family.save(_simplified(tree), out)
        family.check(out, "the simplified model")
    except StageError as error:
        for path in (out / family.MODEL, out / family.DATA):
            path.unlink(missing_ok=True)
        family.save(family.load(tree), out)
        notes[NOT_SIMPLIFIED] = error.message
    family.carry(tree, out, **notes)
    return StageResult(notes=notes)


def _simplified(tree: Path) -> ModelProto:
    import onnxslim

    original = family.load(tree)
    try:
        result = onnxslim.slim(family.load(tree))
    except (Exception, SystemExit) as error:
        raise StageError(f"onnxslim failed: {type(error).__name__}: {error}") from error
    if family.opset(result) != family.opset(original):
        raise StageError("onnxslim changed the opset")
    if family.interface(result) != family.interface(original):
        raise StageError("onnxslim changed the inputs or outputs")
    return result
