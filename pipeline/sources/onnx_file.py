"""Reading an ONNX file that the user gives: whole, confined to its directory, and understood."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.impostors import refuse_impostors
from crosscast.pipeline.sources.onnx_shapes import shape_of
from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.onnx_runtime import DTYPES

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft")
"""Operators that ONNX Runtime has; which targets take them is for the targets to say."""

UNDECLARED_SIZES = (1, 4)
"""Of a dynamic dimension whose least and greatest size the config does not declare."""


def read(path: Path, *, weights: bool) -> Any:
    """The model, with its external data where `weights`. Raises StageError where it is none."""
    import onnx
    from google.protobuf.message import DecodeError

    refuse_impostors(path, what="ONNX file", fix="give the binary .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise _no_model(path, str(error)) from error
    if not model.opset_import or not model.graph.output:
        raise _no_model(path, "it holds no graph")
    external(model, path)
    _refuse_unknown(model, path)
    _refuse_containers(model, path)
    if weights:
        onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
    return model


def external(model: Any, path: Path) -> tuple[Path, ...]:
    """The files beside the model that hold its tensors, all there and long enough.

    Raises StageError where one is not, or lies outside the model's directory.
    """
    found: dict[Path, None] = {}
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            found[_beside(path, tensor.name, entries)] = None
    return tuple(found)


def without_weights_as_inputs(model: Any) -> Any:
    """The model whose inputs are those a user gives: old files list their weights as well."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        # Only from IR version 4 on may a weight be no input.
        model.ir_version = max(model.ir_version, 4)
    return model


def completed(model: Any, declared: Signature, *, without: Collection[str] = ()) -> Signature:
    """The declared inputs, with those the config leaves out, in the file's order.

    without: names of inputs that are constants. Raises StageError where both name inputs of other
    dtypes or ranks; other sizes are for a run to judge. Without outputs: running it tells more.
    """
    weights = {tensor.name for tensor in model.graph.initializer} | set(without)
    values = [value for value in model.graph.input if value.name not in weights]
    for value in model.graph.output:
        _dtype(value)
    given = {tensor.name: tensor for tensor in declared.inputs}
    unknown = sorted(set(given) - {value.name for value in values})
    if unknown:
        raise StageError(
            f"inputs: the ONNX file has no input {', '.join(map(repr, unknown))}; "
            f"it has {', '.join(repr(value.name) for value in values)}",
            fix="name the inputs as the file does",
        )
    inputs = tuple(
        _input(value, index, given.get(value.name)) for index, value in enumerate(values)
    )
    dynamic = [dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)]
    dims = {dim: declared.dims.get(dim, UNDECLARED_SIZES) for dim in dynamic}
    return replace(declared, inputs=inputs, dims=dims)


def _no_model(path: Path, why: str) -> StageError:
    return StageError(
        f"{path} is not an ONNX model, or a truncated one ({why})",
        fix="fetch or export it again, and compare its size with the original's",
    )


def _tensors(model: Any) -> Iterator[Any]:
    for graph in graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _beside(path: Path, name: str, entries: Mapping[str, str]) -> Path:
    location = entries.get("location", "")
    data, folder = path.parent / location, path.parent.resolve()
    inside = data.resolve().is_relative_to(folder) and not PurePosixPath(location).is_absolute()
    if not location or not inside:
        raise StageError(
            f"{path}: tensor '{name}' lies in '{location}', outside the model's directory",
            fix="save the model with its external data beside it",
        )
    if not data.is_file():
        raise StageError(
            f"{path}: its external data file '{location}' (tensor '{name}') is missing",
            fix=f"copy '{location}' beside the model",
        )
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    if data.stat().st_size < end:
        raise StageError(
            f"{path}: its external data file '{location}' is truncated: tensor '{name}' ends at "
            f"byte {end}, the file at {data.stat().st_size}",
            fix=f"copy '{location}' again",
        )
    return data


def _refuse_unknown(model: Any, path: Path) -> None:
    """Raise StageError for operators that are neither standard nor functions of the model."""
    own = {function.domain for function in model.functions}
    unknown = sorted(
        {
            f"{node.domain}::{node.op_type}"
            for graph in graphs(model.graph)
            for node in graph.node
            if node.domain not in DOMAINS and node.domain not in own
        }
    )
    if unknown:
        raise StageError(
            f"{path} uses custom operators that no runtime here knows: {', '.join(unknown)}",
            fix="export the model with standard ONNX operators",
        )


def _refuse_containers(model: Any, path: Path) -> None:
    """Raise StageError for inputs and outputs that are no tensors."""
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.HasField("tensor_type"):
            kind = (value.type.WhichOneof("value") or "value without a").removesuffix("_type")
            raise StageError(
                f"{path}: '{value.name}' is a {kind} type; only tensors can be shipped",
                fix="export the model with tensors only (skl2onnx: options={'zipmap': False})",
            )


def _input(value: Any, index: int, declared: Tensor | None) -> Tensor:
    found = _found(value, index)
    if declared is None:
        if found is None:
            raise StageError(
                f"the ONNX file does not tell the shape of input '{value.name}'",
                fix="declare it in the config's `inputs`",
            )
        return found
    if found is not None:
        _refuse_conflict(found, declared)
    return declared


def _found(value: Any, index: int) -> Tensor | None:
    """What the file says of an input; None where it tells no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dtype = _dtype(value)
    return Tensor(name=value.name, shape=shape_of(tensor, f"dim{index}"), dtype=dtype)


def _dtype(value: Any) -> str:
    """The dtype of an input or output, empty where the file does not tell it; StageError for one
    that has no equivalent outside.
    """
    from onnx import TensorProto, helper

    kind = value.type.tensor_type.elem_type
    if kind == TensorProto.UNDEFINED:
        return ""
    dtype = "string" if kind == TensorProto.STRING else helper.tensor_dtype_to_np_dtype(kind).name
    if dtype not in DTYPES.values():
        raise StageError(
            f"'{value.name}' of the ONNX file is {TensorProto.DataType.Name(kind).lower()}, which "
            "cannot be given or compared",
            fix="export the model with inputs and outputs in float32 or float16",
        )
    return dtype


def _refuse_conflict(found: Tensor, declared: Tensor) -> None:
    """Sizes may differ, dtypes and numbers of dimensions not."""
    if declared.dtype != found.dtype:
        raise _conflict(found, declared, f"{declared.dtype}, the ONNX file has {found.dtype}")
    if len(declared.shape) != len(found.shape):
        ours, theirs = (f"[{', '.join(map(str, t.shape))}]" for t in (declared, found))
        raise _conflict(found, declared, f"{ours}, the ONNX file has {theirs}")


def _conflict(found: Tensor, declared: Tensor, what: str) -> StageError:
    return StageError(
        f"input '{declared.name}' is declared as {what}",
        fix=f"declare {found.name} as {found.dtype} [{', '.join(map(str, found.shape))}]",
    )
