"""Simplify: fold constants and fuse operators of an ONNX tree, or keep it as it was."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature
from crosscast.pipeline.stages import StageResult
from crosscast.targets.families import onnx as family

if TYPE_CHECKING:
    from onnx import ModelProto

ALIKE = 1e-3
"""Relative difference that other orders of summation may make, by far."""

SIZES = (2, 7)
"""Of dynamic dimensions in the input that is made to compare."""

SAID = "onnxslim.txt"

NOT_SIMPLIFIED = "not_simplified"
"""The key of notes.json that says why the original was kept."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:  # noqa: ARG001
    """Write the simplified model.

    A simplifier that fails, crashes, or whose result is invalid, of another opset, with other
    inputs or outputs, or computes something else, costs nothing but the simplification: the
    original is kept and the notes say why.
    """
    tree = inputs["model"]
    notes = {}
    try:
        _simplify(tree, out)
        family.check(out, "the simplified model")
        _require_equal(tree, out)
    except StageError as error:
        for path in (out / family.MODEL, out / family.DATA):
            path.unlink(missing_ok=True)
        family.save(family.load(tree), out)
        notes[NOT_SIMPLIFIED] = error.message
    family.carry(tree, out, **notes)
    return StageResult(notes=notes)


def _simplify(tree: Path, out: Path) -> None:
    """Simplify in a process of its own: a simplifier that crashes takes nothing with it."""
    if not _alone():
        family.save(_simplified(tree), out)
        return
    process = multiprocessing.get_context("fork").Process(target=_attempt, args=(tree, out))
    process.start()
    process.join()
    said = out / SAID
    reason = said.read_text(encoding="utf-8") if said.exists() else ""
    said.unlink(missing_ok=True)
    if reason:
        raise StageError(reason)
    if process.exitcode:
        raise StageError(f"onnxslim crashed: {_death(process.exitcode)}")


def _alone() -> bool:
    """Whether this process can be forked, as a worker's can: threads of others would hold locks
    that nobody in the copy ever gives back.
    """
    tasks = Path("/proc/self/task")
    return tasks.is_dir() and len(list(tasks.iterdir())) == 1


def _attempt(tree: Path, out: Path) -> None:
    try:
        family.save(_simplified(tree), out)
    except StageError as error:
        (out / SAID).write_text(error.message, encoding="utf-8")


def _death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


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


def _require_equal(tree: Path, out: Path) -> None:
    """Raise StageError where the simplified model computes something else on one made input."""
    import numpy as np

    before, fed = _answers(tree, None)
    if before is None:  # the made input is none that the model takes: it proves nothing
        return
    after, _ = _answers(out, fed)
    if after is None:
        raise StageError("ONNX Runtime refuses the simplified model")
    for name, wanted in before.items():
        given = after[name]
        alike = wanted.shape == given.shape and wanted.dtype == given.dtype
        if alike and wanted.dtype.kind == "f":
            scale = float(np.max(np.abs(wanted), initial=0.0, where=np.isfinite(wanted)))
            alike = np.allclose(wanted, given, rtol=ALIKE, atol=ALIKE * scale, equal_nan=True)
        if not alike:
            raise StageError(f"onnxslim changed what output '{name}' is")


def _answers(tree: Path, fed: Arrays | None) -> tuple[Arrays | None, Arrays | None]:
    """The model's outputs for `fed`, or for a made input, and what it was fed; None for both
    where it refuses that.
    """
    from crosscast.pipeline.parity.samples import example
    from crosscast.targets.families.onnx_runtime import OnnxSession

    try:
        if fed is None:
            inputs, _ = family.interface(family.load(tree))
            dims = {dim: SIZES for tensor in inputs for dim in tensor.shape if isinstance(dim, str)}
            fed = example(Signature(inputs=inputs, dims=dims))
        return OnnxSession(tree / family.MODEL).run(fed), fed
    except StageError:
        return None, None
