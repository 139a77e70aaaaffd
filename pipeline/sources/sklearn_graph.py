"""What skl2onnx wrote, with the inputs and outputs that the reference has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import STRING, Tensor, numpy_dtype
from crosscast.pipeline.sources.sklearn_model import Reference, role
from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.onnx_walk import prune, reads

PREFIX = "skl_"

LAST = -1
"""The last column: of two classes, what decision_function gives."""

Part: TypeAlias = int | tuple[str, int] | None
"""Which part of what skl2onnx wrote: a target among those stacked along the first axis, or in a
sequence; LAST; None for the whole."""


def finished(model: Any, reference: Reference, *, opset: int) -> Any:
    """The model with our names, shapes and dtypes, at `opset`."""
    _at_opset(model, opset)
    _rename_all(model.graph)
    inner_inputs = list(model.graph.input)
    inner_outputs = list(model.graph.output)
    del model.graph.input[:], model.graph.output[:]
    body = list(model.graph.node)
    del model.graph.node[:]
    for tensor, inner in zip(reference.given.tensors, inner_inputs, strict=True):
        _feed(model.graph, tensor, inner)
    model.graph.node.extend(body)
    # in the declared order, which need not be that of the estimator's columns
    for tensor in reference.inputs:
        model.graph.input.append(_value(tensor))
    kinds = _outputs(reference, inner_outputs)
    for tensor, (inner, column) in zip(reference.outputs, kinds, strict=True):
        _deliver(model.graph, tensor, inner, column)
        model.graph.output.append(_value(tensor))
    _prune(model.graph)
    model.producer_name = "crosscast"
    return model


def _at_opset(model: Any, wanted: int) -> None:
    """Declare the opset that was asked for: skl2onnx declares the newest that any operator needs.

    Raises StageError where an operator means something else in it.
    """
    import onnx

    # skl2onnx lists a domain once for each part of a pipeline
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    for domain, version in sorted(versions.items()):
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    standard = next(entry for entry in model.opset_import if entry.domain == "")
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        if node.domain:
            continue
        ours, theirs = (
            onnx.defs.get_schema(node.op_type, version, "").since_version
            for version in (wanted, standard.version)
        )
        if ours != theirs and not _same_form(node, wanted):
            raise StageError(
                f"skl2onnx wrote operator {node.op_type} for opset {standard.version}, which "
                f"opset {wanted} has changed",
                fix=f"set 'opset: {standard.version}'",
            )
    standard.version = wanted


def _same_form(node: Any, opset: int) -> bool:
    """Whether the newer operator takes the node as it is: no attribute that it does not know, and
    as many inputs as it can have.
    """
    import onnx

    schema = onnx.defs.get_schema(node.op_type, opset, "")
    known = all(entry.name in schema.attributes for entry in node.attribute)
    return known and schema.min_input <= len(node.input) <= schema.max_input


def _rename_all(graph: Any) -> None:
    """Put PREFIX before every name of a value, so that none is one of ours."""
    for inner in graphs(graph):
        for value in (*inner.input, *inner.output, *inner.initializer, *inner.sparse_initializer):
            value.name = PREFIX + value.name
        for node in inner.node:
            node.input[:] = [name and PREFIX + name for name in node.input]
            node.output[:] = [name and PREFIX + name for name in node.output]
        del inner.value_info[:]


def _feed(graph: Any, tensor: Tensor, inner: Any) -> None:
    """Bring our input to the type and shape of skl2onnx's."""
    from onnx import TensorProto, helper

    wanted = inner.type.tensor_type.elem_type
    name = tensor.name
    if tensor.dtype != STRING and _kind(tensor.dtype) != wanted:
        graph.node.append(helper.make_node("Cast", [name], [f"{inner.name}_cast"], to=wanted))
        name = f"{inner.name}_cast"
    if len(tensor.shape) == 1:
        shape = helper.make_tensor(f"{inner.name}_shape", TensorProto.INT64, [2], [-1, 1])
        graph.initializer.append(shape)
        graph.node.append(helper.make_node("Reshape", [name, shape.name], [inner.name]))
    else:
        graph.node.append(helper.make_node("Identity", [name], [inner.name]))


def _outputs(reference: Reference, inner: Sequence[Any]) -> list[tuple[str, Part]]:
    """For each of our outputs: the value that skl2onnx wrote, and which part of it is meant."""
    count = len(reference.outputs)
    first = (inner[0].name, None)
    if role(reference.estimator) in ("regressor", "transformer") or count == 1:
        return [first]
    second = inner[1].name
    if len(reference.classes) > 1 and inner[1].type.HasField("sequence_type"):
        return [first, *((second, ("sequence", part)) for part in range(count - 1))]
    if len(reference.classes) > 1:
        return [first, *((second, part) for part in range(count - 1))]
    binary = bool(reference.classes) and len(reference.outputs[-1].shape) == 1
    return [first, (second, LAST if binary else None)]


def _deliver(graph: Any, tensor: Tensor, inner: str, part: Part) -> None:
    """Bring skl2onnx's output to our name, dtype and shape."""
    from onnx import TensorProto, helper

    stem = f"{PREFIX}out_{tensor.name}"
    if part is not None:
        inner = _part(graph, inner, part, stem, tensor)
    if tensor.dtype != STRING:
        kind = _kind(tensor.dtype)
        graph.node.append(helper.make_node("Cast", [inner], [f"{stem}_cast"], to=kind))
        inner = f"{stem}_cast"
    sizes = [-1, *(size if isinstance(size, int) else 0 for size in tensor.shape[1:])]
    shape = helper.make_tensor(f"{stem}_shape", TensorProto.INT64, [len(sizes)], sizes)
    graph.initializer.append(shape)
    graph.node.append(helper.make_node("Reshape", [inner, shape.name], [tensor.name]))


def _part(graph: Any, inner: str, part: int | tuple[str, int], stem: str, tensor: Tensor) -> str:
    """A part of an output: one of a sequence or of a stack of targets, or the last column."""
    from onnx import TensorProto, helper

    def constant(name: str, shape: list[int], values: list[int]) -> str:
        made = helper.make_tensor(f"{stem}_{name}", TensorProto.INT64, shape, values)
        graph.initializer.append(made)
        return str(made.name)

    made = f"{stem}_of"
    if part == LAST:
        nodes = [helper.make_node("Gather", [inner, constant("last", [], [-1])], [made], axis=1)]
    elif isinstance(part, tuple):
        index = constant("part", [], [part[1]])
        nodes = [helper.make_node("SequenceAt", [inner, index], [made])]
    else:
        index, classes = constant("part", [], [part]), range(int(tensor.shape[1]))
        columns = constant("columns", [len(classes)], list(classes))
        nodes = [
            helper.make_node("Gather", [inner, index], [f"{made}_all"], axis=0),
            helper.make_node("Gather", [f"{made}_all", columns], [made], axis=1),
        ]
    graph.node.extend(nodes)
    return made


def _prune(graph: Any) -> None:
    """Remove what no output needs."""
    prune(graph)
    needed = {value.name for value in graph.output}
    needed.update(name for node in graph.node for name in reads(node))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _value(tensor: Tensor) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(tensor.name, _kind(tensor.dtype), list(tensor.shape))


def _kind(dtype: str) -> int:
    from onnx import TensorProto, helper

    if dtype == STRING:
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(numpy_dtype(dtype)))
