"""ONNX trees: read, check, write; and the conversion to fp32 ONNX that all targets start from."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Tensor, dtype_name
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import NOTES, Options, read_notes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

ONNX = Toolchain(
    name="onnx",
    preload=("onnx", "onnxslim", "onnxruntime", "onnxruntime.quantization"),
    distributions=("onnx", "onnxslim", "onnxruntime", "numpy"),
    extra="onnx",
)

MODEL = "model.onnx"
DATA = "model.onnx.data"
SIDECARS = (NOTES, "signature.json")
"""What travels with a model from tree to tree."""

PROTOBUF_LIMIT = 2 * 1024**3 - 64 * 1024**2
"""Bytes of tensors above which they go beside the file: protobuf stops at 2 GiB, and the graph
needs some of it."""

EXPORTER = "exporter"
"""The key of notes.json by which an export says that it was asked for an opset."""

OPSET_ASKED = "opset_asked"
"""The key of notes.json that holds the opset which the config names."""

LOCAL_METADATA = ("pkg.torch.onnx.stack_trace",)
"""Node metadata that holds paths of the machine that exported."""


class OnnxOptions(Options):
    """Options of the conversion to ONNX."""

    opset: Annotated[int, Field(ge=7, le=23)] | None = Field(
        default=None,
        description="Opset of the ONNX file; exactly this one is delivered, or it is an error. "
        "Default: an ONNX source's own, otherwise 18.",
    )
    ir_version: Annotated[int, Field(ge=3, le=11)] | None = Field(
        default=None,
        description="IR version of the ONNX file, for runtimes that read no later one; exactly "
        "this one is delivered, or it is an error. Default: the source's own, or the first that "
        "has the opset.",
    )


def load(tree: Path) -> ModelProto:
    """The model of an ONNX tree, external data included. Raises StageError where it is broken."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(tree / MODEL)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise StageError(
            f"{MODEL} cannot be read as an ONNX model: {error}",
            fix="check that the file is complete and that its external data lies beside it",
        ) from error


def save(model: ModelProto, out: Path) -> None:
    """Write `model.onnx` under `out`; its tensors beside it only where protobuf demands it."""
    import onnx

    path = out / MODEL
    if sum(tensor.ByteSize() for tensor in model.graph.initializer) <= PROTOBUF_LIMIT:
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        onnx.save_model(model, path, save_as_external_data=True, location=DATA)


def check(tree: Path, what: str) -> None:
    """Raise StageError where the ONNX checker refuses the model of `tree`."""
    import onnx

    try:
        onnx.checker.check_model(str(tree / MODEL), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageError(f"{what} is not valid ONNX: {error}") from error


def carry(source: Path, out: Path, **notes: Any) -> None:
    """Copy what travels with a model from tree to tree, and add `notes` to its notes."""
    for name in SIDECARS:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if notes:
        text = json.dumps(read_notes(source) | notes, indent=2, sort_keys=True)
        (out / NOTES).write_text(text + "\n", encoding="utf-8")


def with_types(model: ModelProto) -> ModelProto:
    """The model with inferred types and shapes.

    Inferred from a file, since protobuf passes no model above 2 GiB in memory.
    """
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        onnx.shape_inference.infer_shapes_path(str(Path(scratch) / MODEL))
        typed = onnx.load(Path(scratch) / MODEL)
    # What the outputs are declared to be is not for inference to change.
    del typed.graph.output[:]
    typed.graph.output.extend(model.graph.output)
    return typed


def refuse_attributes(tree: Path, target: str) -> None:
    """Raise StageError where most of the model is in operators' attributes, which stay float32."""
    import onnx

    model = onnx.load(tree / MODEL, load_external_data=False)
    held = attribute_bytes(model)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    every = (tensor for graph in graphs(model.graph) for tensor in graph.initializer)
    weights = sum(4 * prod(tensor.dims) for tensor in every if tensor.data_type in floats)
    if sum(held.values()) > weights:
        raise StageError(
            f"{target}: the model's numbers are attributes of {', '.join(held)} (ai.onnx.ml), "
            "which have float32 only: there are no weights to keep in fewer bits",
            fix="use the target onnx (trees and support vectors are not quantized)",
        )


def attribute_bytes(model: ModelProto) -> dict[str, int]:
    """Bytes of the float32 numbers that operators of ai.onnx.ml hold, by operator."""
    found: dict[str, int] = {}
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        size = sum(4 * len(entry.floats) for entry in node.attribute)
        if node.domain == "ai.onnx.ml" and size:
            found[node.op_type] = found.get(node.op_type, 0) + size
    return found


def opset(model: ModelProto) -> int:
    """The version of the standard operators that the model uses."""
    return next(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1
    )


def interface(model: ModelProto) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs (without those that are weights) and outputs that the file declares."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in weights)
    return inputs, tuple(_tensor(value) for value in model.graph.output)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and those inside its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from graphs(inner)


def convert(*, model: Path, options: Mapping[str, Any], out: Path) -> None:
    """Write the model as fp32 ONNX of the opset that was asked for, checked.

    An exporter delivers that opset itself; a file of another one, as its author has it, is
    brought to it.
    """
    chosen = OnnxOptions.model_validate(options)
    save(prepared(model, chosen.opset, chosen.ir_version), out)
    check(out, "the converted model")
    carry(model, out, **({} if chosen.opset is None else {OPSET_ASKED: chosen.opset}))


def prepared(tree: Path, wanted: int | None, ir_version: int | None = None) -> ModelProto:
    """The model of `tree` at opset `wanted` and an IR version, None for its own.

    What tells of the machine that exported it is removed.
    """
    import onnx

    source = load(tree)
    if wanted is not None and opset(source) != wanted:
        source = _at_opset(source, wanted, exported=EXPORTER in read_notes(tree))
    lowest = onnx.helper.find_min_ir_version_for(list(source.opset_import), ignore_unknown=True)
    if ir_version is not None and ir_version < lowest:
        raise StageError(
            f"IR version {ir_version} was asked for, but opset {opset(source)} needs {lowest}",
            fix=f"set 'ir_version: {lowest}', or an opset that the runtime reads",
        )
    source.ir_version = ir_version or max(source.ir_version, lowest)
    _forget_machine(source)
    return source


def _at_opset(source: ModelProto, wanted: int, *, exported: bool) -> ModelProto:
    found = opset(source)
    if exported:
        raise StageError(
            f"the exporter delivered opset {found} where {wanted} was asked for",
            fix=f"set 'opset: {found}', or one that the exporter keeps (17 to 22 for PyTorch)",
        )
    from crosscast.targets.families.onnx_upgrade import upgraded  # which imports this module

    return upgraded(source, wanted)


def _forget_machine(model: ModelProto) -> None:
    for graph in graphs(model.graph):
        for node in graph.node:
            node.ClearField("doc_string")
            kept = [entry for entry in node.metadata_props if entry.key not in LOCAL_METADATA]
            if len(kept) < len(node.metadata_props):
                del node.metadata_props[:]
                node.metadata_props.extend(kept)


def _tensor(value: ValueInfoProto) -> Tensor:
    import onnx

    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "value without a type"
        raise StageError(
            f"'{value.name}' of the ONNX model is a {kind}; only tensors can be shipped",
            fix="export the model with tensors only (skl2onnx: options={'zipmap': False})",
        )
    tensor = value.type.tensor_type
    dtype = dtype_name(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    return Tensor(name=value.name, shape=shape, dtype=dtype)
