"""ONNX from a torch program: by the exporter for exported programs, else by the one that traces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.onnx_fold import resolve_conditions
from crosscast.pipeline.sources.torch_module import brief
from crosscast.pipeline.sources.torch_program import PROGRAM, Prepared, exporting
from crosscast.targets.families.onnx import graphs

DEFAULT_OPSET = 18
LEAST_OPSET = 7
PROGRAM_OPSETS = range(18, 23)
"""What the exporter for programs delivers as asked. Below, it gives 18 or converts down badly;
from 23 it writes Attention nodes that ONNX Runtime rejects with a mask."""

LAYERS = "pkg.torch.onnx.name_scopes"
"""The node metadata that names the layer."""


class NotExported(Exception):
    """One exporter could not do it; another may."""

    def __init__(self, reason: str, *, operator: str = "") -> None:
        super().__init__(reason)
        self.operator = operator


def refuse_opset(opset: int) -> None:
    """Raise StageError for an opset that no exporter delivers soundly."""
    if LEAST_OPSET <= opset < PROGRAM_OPSETS.stop:
        return
    why = "has no exporter"
    if opset >= PROGRAM_OPSETS.stop:
        why = "makes torch write Attention nodes that ONNX Runtime rejects with a mask"
    raise StageError(
        f"opset {opset} {why}",
        fix=f"ask for an opset from {LEAST_OPSET} to {PROGRAM_OPSETS.stop - 1}; "
        f"{DEFAULT_OPSET} is the default",
    )


@contextmanager
def _exact_zeros() -> Iterator[None]:
    """Keeps `x + 1e-12`, which guards a division: onnxscript's rewriter, which the exporter calls,
    takes a constant within 1e-8 of 0 for 0 and drops the sum.
    """
    from onnxscript.rewriter._matcher import SimplePatternMatcher

    original = SimplePatternMatcher._match_constant

    def match(self: Any, pattern: Any, value: Any) -> bool:
        pattern._abs_tol = 0.0
        return bool(original(self, pattern, value))

    SimplePatternMatcher._match_constant = match
    try:
        yield
    finally:
        SimplePatternMatcher._match_constant = original


def from_program(tree: Path, *, signature: Signature, opset: int) -> Any:
    """The ONNX model of an exported program. Raises NotExported where that fails."""
    import torch

    if opset not in PROGRAM_OPSETS:
        raise NotExported(f"opset {opset} is below {PROGRAM_OPSETS.start}, its least")
    with exporting(), _exact_zeros():
        program = torch.export.load(tree / PROGRAM)
        try:
            result = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=opset,
                input_names=_placeholders("input", signature.inputs),
                output_names=_placeholders("output", signature.outputs),
                verbose=False,
            )
            model = result.model_proto
        except Exception as error:
            raise NotExported(
                f"{type(error).__name__}: {_telling(error)}", operator=_operator(error)
            ) from error
    return finished(model, signature=signature, opset=opset)


def from_trace(model: Prepared, *, opset: int) -> Any:
    """The ONNX model by torch's TorchScript exporter. Raises NotExported where that fails."""
    import onnx
    import torch

    signature, file = model.signature, BytesIO()
    try:
        with exporting():
            torch.onnx.export(
                _exportable(model),
                model.tensors(),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=_placeholders("input", signature.inputs),
                output_names=_placeholders("output", signature.outputs),
                dynamic_axes=_dynamic_axes(signature),
            )
    except Exception as error:
        operator = _operator(error)
        raise NotExported(
            f"{type(error).__name__}: {_telling(error)}", operator=operator
        ) from error
    made = onnx.load_from_string(file.getvalue())
    # a script keeps its branches, of which known shapes and frozen arguments leave one
    if resolve_conditions(made):
        _infer_outputs(made)
    return finished(made, signature=signature, opset=opset)


def _exportable(model: Prepared) -> Any:
    """The module, or a trace of it where it calls TorchScript, which the exporter takes only so."""
    import torch

    scripts = [isinstance(layer, torch.jit.ScriptModule) for layer in model.module.modules()]
    if scripts[0] or not any(scripts):
        return model.module
    return torch.jit.trace(model.module, model.tensors(), check_trace=False, strict=False)


def finished(model: Any, *, signature: Signature, opset: int) -> Any:
    """The model with the signature's names and dimensions, and nothing of this machine.

    Raises NotExported where its opset, inputs or outputs are not those asked for.
    """
    delivered = next(entry.version for entry in model.opset_import if entry.domain == "")
    if delivered != opset:
        raise NotExported(f"it delivered opset {delivered} where {opset} was asked for")
    _name(model.graph, signature)
    _restore_unused(model.graph, signature.inputs)
    _check_names(model.graph, signature)
    _rename_dims(model.graph, signature)
    _strip(model)
    return model


def _infer_outputs(model: Any) -> None:
    """Declare the outputs' shapes anew: those that the exporter saw end in a branch are open."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph.output
    for value, found in zip(model.graph.output, inferred, strict=True):
        if found.type.tensor_type.HasField("shape"):
            value.CopyFrom(found)


def _dynamic_axes(signature: Signature) -> dict[str, dict[int, str]]:
    names = [
        *_placeholders("input", signature.inputs),
        *_placeholders("output", signature.outputs),
    ]
    return {
        name: {axis: dim for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}
        for name, tensor in zip(names, (*signature.inputs, *signature.outputs), strict=True)
    }


def _placeholders(side: str, tensors: Sequence[Tensor]) -> list[str]:
    """Names that exporters give to nothing else: they call values by their operators."""
    return [f"crosscast.{side}.{index}" for index in range(len(tensors))]


def _name(graph: Any, signature: Signature) -> None:
    """Give inputs and outputs the signature's names in place of the placeholders, and another
    name to what has one of these inside the graph.
    """
    names = {
        placeholder: tensor.name
        for side, tensors in (("input", signature.inputs), ("output", signature.outputs))
        for placeholder, tensor in zip(_placeholders(side, tensors), tensors, strict=True)
    }
    taken = {value for owner in graphs(graph) for value in _values(owner)}
    for wanted in set(names.values()) & taken:
        inner = f"{wanted}_inner"
        while inner in taken or inner in names.values():
            inner += "_"
        names[wanted] = inner
    for owner in graphs(graph):
        for value in (*owner.input, *owner.output, *owner.initializer):
            value.name = names.get(value.name, value.name)
        for node in owner.node:
            for values in (node.input, node.output):
                values[:] = [names.get(value, value) for value in values]


def _values(graph: Any) -> set[str]:
    """The names of all values that a graph declares or computes."""
    declared = (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    return {*declared, *(value for node in graph.node for value in node.output)}


def _restore_unused(graph: Any, inputs: tuple[Tensor, ...]) -> None:
    """Put back, in order, the inputs that a trace dropped because the model ignores them."""
    import onnx

    there = {value.name: value for value in graph.input}
    if set(there) >= {tensor.name for tensor in inputs}:
        return
    made = [
        there.get(tensor.name)
        or onnx.helper.make_tensor_value_info(
            tensor.name, onnx.helper.np_dtype_to_tensor_dtype(_dtype(tensor)), tensor.shape
        )
        for tensor in inputs
    ]
    del graph.input[:]
    graph.input.extend(made)


def _dtype(tensor: Tensor) -> Any:
    import numpy as np

    return np.dtype(tensor.dtype)


def _check_names(graph: Any, signature: Signature) -> None:
    for what, values, tensors in (
        ("inputs", graph.input, signature.inputs),
        ("outputs", graph.output, signature.outputs),
    ):
        found, wanted = [value.name for value in values], [tensor.name for tensor in tensors]
        if found != wanted:
            raise NotExported(f"it delivered {what} {found} where {wanted} were asked for")


def _rename_dims(graph: Any, signature: Signature) -> None:
    """Give dynamic dimensions the declared names in place of the exporter's symbols."""
    names: dict[str, str] = {}
    for value, tensor in zip(graph.input, signature.inputs, strict=True):
        for dim, wanted in zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True):
            low, high = signature.dims.get(str(wanted), (0, 0))
            if isinstance(wanted, str) and low < high and not dim.dim_param:
                raise NotExported(
                    f"it fixed dimension '{wanted}' [{low}, {high}] of '{tensor.name}' "
                    f"to {dim.dim_value}"
                )
            if dim.dim_param and isinstance(wanted, str):
                names[dim.dim_param] = wanted
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(
                    r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), dim.dim_param
                )
    for value, tensor in zip(graph.output, signature.outputs, strict=True):
        dims = value.type.tensor_type.shape.dim
        for dim, wanted in zip(dims, tensor.shape, strict=len(dims) > 0):
            if isinstance(wanted, str) and not _says(dim.dim_param, signature):
                dim.dim_param = wanted


def _says(symbol: str, signature: Signature) -> bool:
    """Whether a dimension is told in terms of the inputs' own ("2*width")."""
    return bool(symbol) and set(re.findall(r"[A-Za-z_]\w*", symbol)) <= set(signature.dims)


def _strip(model: Any) -> None:
    """Remove what depends on the machine, and inferred shapes, which bear the old symbols."""
    graph = model.graph
    for holder in (model, graph, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
        holder.ClearField("doc_string")
    del graph.value_info[:]
    for owner in (graph, *model.functions):
        for node in owner.node:
            node.ClearField("doc_string")
            layers = [entry.value for entry in node.metadata_props if entry.key == LAYERS]
            del node.metadata_props[:]
            node.name = _in_layer(node.name, layers)


def _in_layer(name: str, layers: list[str]) -> str:
    """A node's name behind the path of its module, which later stages then name in errors.

    layers: the exporter's text of the path's steps, as in "['', 'head', 'head.conv', 'conv2d']",
    where it says any; the last is not a module but the call.
    """
    path = ast.literal_eval(layers[0])[:-1] if layers else []
    return f"{path[-1]}/{name}" if path and path[-1] else name


def _operator(error: BaseException) -> str:
    """The operator that an exporter could not take, where its error or a cause names it."""
    cause: BaseException | None = error
    while cause is not None:
        found = re.search(r"(?:torch\.ops\.)?(aten[.:]+\w+(?:\.\w+)?)", str(cause))
        if found:
            return found[1].replace("::", ".")
        cause = cause.__cause__
    return ""


def _telling(error: BaseException) -> str:
    """The first line of the first cause: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return brief(error)


def layer_of(operator: str, tree: Path) -> str:
    """The path of the first layer that uses the operator in the program of `tree`, or ''."""
    import torch

    if not operator or not (tree / PROGRAM).exists():
        return ""
    base = ".".join(operator.split(".")[:2])
    for node in torch.export.load(tree / PROGRAM).graph.nodes:
        if str(node.target).startswith(base) and node.meta.get("nn_module_stack"):
            path, _ = list(node.meta["nn_module_stack"].values())[-1]
            return str(path)
    return ""
