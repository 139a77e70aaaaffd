"""scikit-learn: a fitted estimator from a skops file, a trusted pickle or the user's function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.signature import Layout, Signature
from crosscast.pipeline.sources.sklearn_file import is_code, read
from crosscast.pipeline.sources.sklearn_inputs import inputs_of
from crosscast.pipeline.sources.sklearn_model import Reference
from crosscast.pipeline.toolchain import Toolchain
from crosscast.pipeline.worker.usercode import own_files
from crosscast.targets.base import NOTES, Kind
from crosscast.targets.families import onnx as trees

SKLEARN = Toolchain(
    name="sklearn",
    preload=("sklearn", "skl2onnx", "onnx", "onnxruntime"),
    distributions=("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy"),
    extra="sklearn",
)

toolchain = SKLEARN
kinds: tuple[Kind, ...] = ("onnx",)
dependencies = own_files


def files(options: Mapping[str, Any]) -> dict[str, Path]:
    """The estimator's file, or that of the function which makes it."""
    model = options["model"]
    return {"model": Path(model.rpartition(":")[0] if is_code(model) else model)}


def signature(*, source: Mapping[str, Any], declared: Signature) -> Signature:
    """What was declared, completed with what the fitted estimator tells."""
    estimator, _ = read(source)
    return inputs_of(estimator, declared)[1]


def load(
    *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
) -> Reference:
    """The estimator as its author has it, run by scikit-learn in float64."""
    return _reference(read(source)[0], signature, outputs)


def export(
    *,
    to: Kind,
    source: Mapping[str, Any],
    signature: Signature,
    outputs: Sequence[str] | None,
    opset: int | None,
    layout: Layout | None,  # noqa: ARG001 - rows and columns have no layout
    program: Path | None,  # noqa: ARG001 - an estimator comes from no program
    out: Path,
) -> dict[str, Any]:
    """Write `model.onnx` under `out`."""
    from crosscast.pipeline.sources import sklearn_onnx  # needs numpy, which planning does not

    if to != "onnx":
        raise StageError(f"a scikit-learn estimator cannot be exported as {to}")
    estimator, said = read(source)
    reference = _reference(estimator, signature, outputs)
    wanted = sklearn_onnx.DEFAULT_OPSET if opset is None else opset
    model, told = sklearn_onnx.exported(reference, opset=wanted)
    trees.save(model, out)
    trees.check(out, "the exported model")
    ours = replace(signature, inputs=reference.inputs, outputs=reference.outputs)
    write_json(out / "signature.json", ours.to_json())
    notes = {"exporter": "skl2onnx", "opset": wanted, **told}
    if reference.classes:
        several = len(reference.classes) > 1
        notes["classes"] = reference.classes if several else reference.classes[0]
    if said:
        notes["versions"] = said
    write_json(out / NOTES, notes)
    return notes


def _reference(estimator: Any, signature: Signature, outputs: Sequence[str] | None) -> Reference:
    inputs, ours = inputs_of(estimator, signature)
    return Reference(estimator, inputs, ours, outputs)
