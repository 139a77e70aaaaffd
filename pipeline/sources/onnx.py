"""An ONNX file as the source: ONNX Runtime without optimisations is its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor
from crosscast.pipeline.sources.onnx_file import (
    completed,
    external,
    read,
    without_weights_as_inputs,
)
from crosscast.pipeline.sources.onnx_layout import (
    declare_missing_shapes,
    relayout,
    rename_outputs,
)
from crosscast.pipeline.sources.outputs import described, named, shapes
from crosscast.targets.base import Kind
from crosscast.targets.families import onnx as trees

toolchain = trees.ONNX
kinds: tuple[Kind, ...] = ("onnx",)

_read: dict[str, None] = {}
"""External data files read in this process, in order."""


def files(options: Mapping[str, Any]) -> dict[str, Path]:
    """The model file. Its external data is found when it is read."""
    return {"model": Path(options["model"])}


def dependencies() -> tuple[str, ...]:
    """The external data files of the models read in this process."""
    return tuple(_read)


def signature(*, source: Mapping[str, Any], declared: Signature) -> Signature:
    """What was declared, with the names, shapes and dtypes that the file tells."""
    return completed(_model(source, weights=False), declared)


class Reference:
    """The model in ONNX Runtime with graph optimisations off: every operator as it is written."""

    def __init__(self, path: Path, signature: Signature, outputs: Sequence[str] | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1  # more sum in another order from run to run
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise StageError(f"ONNX Runtime cannot load {path}: {error}") from error
        self._names = named([value.name for value in self._session.get_outputs()], outputs)
        self.inputs = signature.inputs
        self.outputs: tuple[Tensor, ...] = described(self.run, signature)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        fed = {tensor.name: inputs[tensor.name] for tensor in self.inputs}
        try:
            found = self._session.run(None, fed)
        except Exception as error:
            raise StageError(
                f"the model refuses inputs {shapes(fed)}: {str(error).strip()[:400]}",
                fix="make the config's `inputs` (shape, dtype, sizes) those that the model takes",
            ) from error
        return dict(zip(self._names, found, strict=True))


def load(
    *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
) -> Reference:
    """The file, run by ONNX Runtime without optimisations."""
    model = _model(source, weights=False)
    return Reference(Path(source["model"]), completed(model, signature), outputs)


def export(
    *,
    to: Kind,
    source: Mapping[str, Any],
    signature: Signature,
    outputs: Sequence[str] | None,
    opset: int | None,  # noqa: ARG001 - the conversion that follows brings a file to its opset
    layout: Layout | None,
    program: Path | None,  # noqa: ARG001 - an ONNX file comes from no program
    out: Path,
) -> dict[str, Any]:
    """Write `model.onnx` under `out` as the file has it, in the layout asked for."""
    if to != "onnx":
        raise StageError(f"an ONNX file cannot be exported as {to}")
    reference = load(source=source, signature=signature, outputs=outputs)
    ours = replace(signature, inputs=reference.inputs, outputs=reference.outputs)
    model = without_weights_as_inputs(_model(source, weights=True))
    rename_outputs(model, [tensor.name for tensor in ours.outputs])
    declare_missing_shapes(model, ours.outputs)
    trees.save(relayout(model, ours, layout), out)
    trees.check(out, str(source["model"]))
    write_json(out / "signature.json", ours.permuted(layout).to_json())
    notes = {"opset": trees.opset(model)}
    write_json(out / trees.NOTES, notes)
    return notes


def _model(source: Mapping[str, Any], *, weights: bool) -> Any:
    path = Path(source["model"])
    model = read(path, weights=weights)
    if not weights:
        _read.update(dict.fromkeys(str(data) for data in external(model, path)))
    return model
