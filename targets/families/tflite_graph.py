"""What is done to an ONNX graph before onnx2tf sees it, so that the file does what the graph says.

Each rewrite keeps the graph's meaning. They work in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import tflite_rewrites as rewrites
from crosscast.targets.families.onnx import graphs, opset
from crosscast.targets.families.onnx_upgrade import upgraded
from crosscast.targets.families.onnx_walk import inner_graphs
from crosscast.targets.families.tflite_recurrence import (
    drop_zero_states,
    name_nodes,
    recurs_over_any_batch,
    recurs_over_fixed_lengths,
    refuse_varying_recurrence,
)
from crosscast.targets.families.tflite_shapes import (
    Shapes,
    declared_shape,
    inferred_shapes,
    with_shapes,
)

MINIMUM_OPSET = 17
"""Below 13, onnx2tf reads Softmax's axis wrongly; its rules are best tried from 17 on."""

FILE_LIMIT = 2**31 - 1
"""Bytes that a flatbuffer can address."""

SHAPERS = ("Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: as the ONNX graph declares it, and its name while it is converted.

    shape: an int for a fixed dimension, None for a dynamic one.
    dtype: numpy's name.
    """

    name: str
    alias: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A graph ready for onnx2tf, its outputs flattened, and the ports that its file must have.

    shapes: those that the outputs had before, as far as they are known.
    """

    model: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    shapes: tuple[tuple[int | None, ...], ...] = ()


def prepare(
    path: Path, *, shapes: Shapes | None = None, lengths: Mapping[str, int] | None = None
) -> Prepared:
    """Read the ONNX file (external data included) and rewrite it for onnx2tf.

    shapes: those to fix the inputs at; None leaves the graph as it is. The ports are in any case
        those of the file.
    lengths: the greatest ones of recurrent layers, see `recurrent_lengths`.
    Raises StageError for a model that is too large or whose opset cannot be brought up.
    """
    import onnx

    if sum(file.stat().st_size for file in path.parent.iterdir()) > FILE_LIMIT:
        raise StageError(
            "the model is larger than 2 GB, which a TFLite file cannot hold",
            fix="leave this target out, or split the model",
        )
    model = onnx.load(str(path))
    model = upgraded(model, max(MINIMUM_OPSET, opset(model)))
    name_nodes(model.graph)
    inputs, outputs = declared_ports(model.graph)
    any_batch = shapes is not None and recurs_over_any_batch(model)
    any_size = shapes is not None and _has_any_size(inputs)
    if shapes is not None:
        model = with_shapes(model, shapes)
    drop_zero_states(model.graph)
    rewrites.apply(model, any_batch=any_batch, any_size=any_size, lengths=lengths)
    hoist_constants(model.graph)
    known = inferred_shapes(model)
    refuse_varying_recurrence(model.graph, known)
    spell_out_reshapes(model.graph, known)
    found = tuple(known.get(port.name, ()) for port in outputs)
    return replace(isolate_ports(model, inputs, outputs), shapes=found)


def batch_of(path: Path) -> str | None:
    """The name of the one dynamic dimension of an ONNX file's inputs, where it is a batch: the
    first of an input's dimensions, or the second one of what recurrent layers read. None where
    there is none, or others beside it.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    dims = [
        (axis, dim.dim_param)
        for value in model.graph.input
        if value.name not in weights
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    ]
    names = {name for _, name in dims}
    if len(names) != 1 or "" in names:
        return None
    is_first = any(axis == 0 for axis, _ in dims)
    return names.pop() if is_first or recurs_over_fixed_lengths(model) else None


def _has_any_size(inputs: Sequence[Port]) -> bool:
    return any(None in port.shape[1:] for port in inputs)


def hoist_constants(graph: Any) -> None:
    """Turn Constant nodes into initializers, in which form onnx2tf takes all of them."""
    kept = []
    for node in graph.node:
        held = [item.t for item in node.attribute if item.name == "value"]
        if node.op_type == "Constant" and held:
            graph.initializer.append(held[0])
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def spell_out_reshapes(graph: Any, shapes: dict[str, tuple[int | None, ...]]) -> None:
    """Turn Squeeze, Unsqueeze and Flatten into Reshape to a constant shape, where one will do.

    onnx2tf writes them with the batch fixed to 1, or computes their shape at run time.
    """
    from onnx import helper

    for node in graph.node:
        shape = shapes.get(node.output[0]) if node.op_type in SHAPERS else None
        if shape is None or shape.count(None) > 1 or 0 in shape:
            continue
        target = [-1 if size is None else size for size in shape]
        name = _add_integers(graph, f"{node.output[0]}_target_shape", target)
        node.CopyFrom(
            helper.make_node("Reshape", [node.input[0], name], [node.output[0]], name=node.name)
        )


def declared_ports(graph: Any) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and the outputs that a graph declares, by aliases that no tensor in it has."""
    weights = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in weights]
    taken = _made_names(graph)
    inputs = tuple(_port(value, _free(f"input_{i}", taken)) for i, value in enumerate(given))
    outputs = tuple(
        _port(value, _free(f"output_{i}", taken)) for i, value in enumerate(graph.output)
    )
    return inputs, outputs


def _made_names(graph: Any) -> set[str]:
    """What a graph's nodes and constants, and its inner graphs' inputs, are called."""
    inner = list(graphs(graph))[1:]
    return {
        *(value.name for held in inner for value in held.input),
        *(tensor.name for held in (graph, *inner) for tensor in held.initializer),
        *(name for held in (graph, *inner) for node in held.node for name in node.output),
    }


def _free(name: str, taken: Set[str]) -> str:
    while name in taken:
        name = f"port_{name}"
    return name


def isolate_ports(model: Any, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Prepared:
    """Give inputs and outputs plain names, and flatten every output.

    onnx2tf renames some characters, and drops or adds the transposition before an output as it
    likes. It cannot do so before a flattening without changing what the graph computes, so the
    flat output has the ONNX graph's order of elements, and `tflite_file.finish` gives it its
    shape back.
    """
    graph = model.graph
    aliases = {port.name: port.alias for port in inputs}
    _rename(graph, aliases)
    for value in graph.input:
        value.name = aliases.get(value.name, value.name)
    _flatten_outputs(graph, outputs, {port.name: port.alias for port in inputs})
    return Prepared(model=model, inputs=inputs, outputs=outputs)


def _flatten_outputs(graph: Any, ports: tuple[Port, ...], renamed: dict[str, str]) -> None:
    from onnx import helper

    # ones behind, since onnx2tf leaves out a reshaping that changes nothing, and loses what else
    # reads its source
    shape = _add_integers(graph, "output_flat_shape", [-1, 1, 1])
    kinds = [value.type.tensor_type.elem_type for value in graph.output]
    del graph.output[:]
    for port, kind in zip(ports, kinds, strict=True):
        source = renamed.get(port.name, port.name)
        graph.node.append(
            helper.make_node("Reshape", [source, shape], [port.alias], name=f"{port.alias}_flat")
        )
        size = None if None in port.shape else prod(size or 0 for size in port.shape)
        graph.output.append(helper.make_tensor_value_info(port.alias, kind, [size, 1, 1]))


def _port(value: Any, alias: str) -> Port:
    from onnx import TensorProto, helper

    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.STRING:
        raise StageError(
            f"'{value.name}' holds strings, which TFLite's operators cannot take or give",
            fix="let the model take and give numbers (class labels: integers), or leave the "
            "tflite targets out",
        )
    return Port(
        name=value.name,
        alias=alias,
        shape=declared_shape(tensor),
        dtype=str(helper.tensor_dtype_to_np_dtype(tensor.elem_type).name),
    )


def _add_integers(graph: Any, name: str, values: Sequence[int]) -> str:
    """Add a constant vector; its name."""
    from onnx import TensorProto, helper

    graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
    return name


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename what the nodes read, in inner graphs too."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        for inner in inner_graphs(node):
            for value in inner.output:
                value.name = names.get(value.name, value.name)
            _rename(inner, names)
