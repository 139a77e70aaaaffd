"""An ONNX file as the source: ONNX Runtime without optimisations is its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor
from crosscast.pipeline.sources.onnx_clean import cleaned
from crosscast.pipeline.sources.onnx_file import (
    completed,
    external,
    read,
    without_weights_as_inputs,
)
from crosscast.pipeline.sources.onnx_fold import freeze, frozen, resolve_conditions
from crosscast.pipeline.sources.onnx_layout import relayout, rename_outputs
from crosscast.pipeline.sources.onnx_shapes import (
    contradicts,
    declare_inputs,
    declare_outputs,
    fixed_batch,
    is_redeclared,
    open_inputs,
    require_rows_apart,
    settled,
    told_outputs,
)
from crosscast.pipeline.sources.outputs import described, named, shapes
from crosscast.targets.base import NOTES, PRECISION, Kind
from crosscast.targets.families import onnx as trees
from crosscast.targets.families import onnx_runtime
from crosscast.targets.families.onnx_legacy import LEGACY_END
from crosscast.targets.families.onnx_upgrade import upgraded

toolchain = trees.ONNX
kinds: tuple[Kind, ...] = ("onnx",)

READABLE = 13
"""What files below opset 7 become, few of whose operators ONNX Runtime has: the least opset that
every conversion here takes."""

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
    constants = source.get("freeze", {})
    model = _model(source, weights=False)
    frozen(model, constants)
    return completed(model, declared, without=constants)


class Reference:
    """The model in ONNX Runtime with graph optimisations off: every operator as it is written.

    constants: what is fed beside the inputs. declared: the file's own shapes, where others are
    declared in their place.
    """

    def __init__(
        self,
        session: Any,
        signature: Signature,
        outputs: Sequence[str] | None,
        *,
        constants: Arrays,
        declared: str = "",
    ) -> None:
        self._session = session
        self._constants = constants
        self._declared = declared
        self._names = named([value.name for value in session.get_outputs()], outputs)
        self.inputs = signature.inputs
        self.outputs: tuple[Tensor, ...] = described(self.run, signature)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        fed = {tensor.name: inputs[tensor.name] for tensor in self.inputs}
        try:
            found = self._session.run(None, fed | self._constants)
        except Exception as error:
            raise StageError(
                f"the model refuses inputs {shapes(fed)}: {str(error).strip()[:400]}",
                fix="make the config's `inputs` (shape, dtype, sizes) those that the model takes"
                + (f"; the file declares {self._declared}" if self._declared else ""),
            ) from error
        return dict(zip(self._names, found, strict=True))


def load(
    *, source: Mapping[str, Any], signature: Signature, outputs: Sequence[str] | None
) -> Reference:
    """The file, run by ONNX Runtime without optimisations.

    It is the file itself, unless the config declares other shapes: then what it declares, and
    nothing else, is changed. A file that ONNX Runtime does not load is repaired first.
    """
    model = _model(source, weights=False)
    signature = completed(model, signature, without=source.get("freeze", {}))
    constants = frozen(model, source.get("freeze", {}))
    original = _session_of(Path(source["model"]))
    redeclared = is_redeclared(model, signature)
    session, told = original, ""
    if redeclared or original is None:
        whole = _model(source, weights=True)
        whole = _repaired(whole) if original is None else whole
        told = _declared(model)
        session = _redeclared(declare_inputs(whole, signature.inputs), signature, told)
    reference = Reference(session, signature, outputs, constants=constants, declared=told)
    rows = fixed_batch(model, signature)
    if original is not None and rows is not None:
        alone = original
        require_rows_apart(
            lambda inputs: alone.run(None, inputs | constants), reference.run, signature, rows
        )
    return reference


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
    """Write `model.onnx` under `out`: the file in the form that all conversions read, frozen, with
    the declared shapes, in the layout asked for. Its opset is kept from 7 on.
    """
    if to != "onnx":
        raise StageError(f"an ONNX file cannot be exported as {to}")
    reference = load(source=source, signature=signature, outputs=outputs)
    ours = replace(signature, inputs=reference.inputs, outputs=reference.outputs)
    model = _model(source, weights=True)
    told = [None] * len(ours.outputs) if contradicts(model, ours) else told_outputs(model)
    model = _repaired(model)
    freeze(model, frozen(model, source.get("freeze", {})))
    declare_inputs(model, ours.inputs)
    resolved = resolve_conditions(model)
    ours = replace(ours, outputs=settled(model, ours, told))
    rename_outputs(model, [tensor.name for tensor in ours.outputs])
    declare_outputs(model, ours.outputs)
    trees.save(relayout(model, ours, layout), out)
    trees.check(out, str(source["model"]))
    write_json(out / "signature.json", ours.permuted(layout).to_json())
    notes = {"opset": trees.opset(model)} | _facts(out, Path(source["model"]), resolved)
    write_json(out / NOTES, notes)
    return notes


def _repaired(model: Any) -> Any:
    """The model in the form that ONNX Runtime and the conversions read."""
    model = cleaned(without_weights_as_inputs(model))
    standard = any(entry.domain == "" for entry in model.opset_import)
    return upgraded(model, READABLE) if standard and trees.opset(model) < LEGACY_END else model


def _facts(out: Path, path: Path, resolved: int) -> dict[str, Any]:
    """What the manifest has to say of the file beside its opset."""
    facts: dict[str, Any] = {}
    if resolved:
        facts["conditions_resolved"] = resolved
    if _session_of(path) is None:
        facts["reference"] = "the repaired file: ONNX Runtime does not load the original"
    held = onnx_runtime.precision(artifact=out).delivered
    if held != "fp32":
        facts[PRECISION] = held
    return facts


def _redeclared(model: Any, signature: Signature, told: str) -> Any:
    """The model with our shapes in ONNX Runtime; StageError where its graph contradicts them."""
    try:
        return _session(_content(model), "the file with the declared inputs")
    except StageError as error:
        ours = ", ".join(
            f"{tensor.name} [{', '.join(map(str, tensor.shape))}]" for tensor in signature.inputs
        )
        raise StageError(
            f"the model cannot have inputs {ours}: {error.message}",
            fix=f"the file declares {told}; declare these, or sizes that its graph can take",
        ) from error


def _session_of(path: Path) -> Any:
    """The file in ONNX Runtime; None where it refuses it."""
    try:
        return _session(path, str(path))
    except StageError:
        return None


def _session(model: Path | bytes, name: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1  # more sum in another order from run to run
    options.log_severity_level = 4  # what it has against a file, it raises
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StageError(f"ONNX Runtime cannot load {name}: {error}") from error


def _content(model: Any) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise StageError(
            "the file is too large to have other shapes declared in memory (2 GB)",
            fix="declare the inputs as the file does",
        ) from error


def _declared(model: Any) -> str:
    """For messages: the shapes that the file itself declares."""
    return ", ".join(
        f"{tensor.name} [{', '.join(map(str, tensor.shape))}]" for tensor in open_inputs(model)
    )


def _model(source: Mapping[str, Any], *, weights: bool) -> Any:
    path = Path(source["model"])
    model = read(path, weights=weights)
    if not weights:
        _read.update(dict.fromkeys(str(data) for data in external(model, path)))
    return model
