"""What is done to an ONNX graph before onnx2tf sees it, so that the file does what the graph says.

Each rewrite keeps the graph's meaning. They work in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import tflite_rewrites as rewrites
from crosscast.targets.families.onnx import graphs, opset
from crosscast.targets.families.onnx_upgrade import upgraded

MINIMUM_OPSET = 17
"""Below 13, onnx2tf reads Softmax's axis wrongly; its rules are best tried from 17 on."""

FILE_LIMIT = 2**31 - 1
"""Bytes that a flatbuffer can address."""

SHAPERS = ("Squeeze", "Unsqueeze", "Flatten")

RECURRENT_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}


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
    """A graph ready for onnx2tf, its outputs flattened, and the ports that its file must have."""

    model: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def prepare(path: Path, *, batch: int | None = None) -> Prepared:
    """Read the ONNX file (external data included) and rewrite it for onnx2tf.

    batch: the size to fix the dynamic batch at (see `batch_of`); None leaves the graph as it is.
        The ports are in any case those of the file.
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
    _name_nodes(model.graph)
    ports = declared_ports(model.graph)
    if batch is not None:
        model = with_batch(model, batch)
    drop_zero_states(model.graph)
    rewrites.apply(model, any_batch=batch is not None)
    hoist_constants(model.graph)
    shapes = inferred_shapes(model)
    refuse_varying_recurrence(model.graph, shapes)
    spell_out_reshapes(model.graph, shapes)
    return isolate_ports(model, *ports)


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
    return names.pop() if is_first or _recurs_over_fixed_lengths(model) else None


def _recurs_over_fixed_lengths(model: Any) -> bool:
    layers = [node for node in model.graph.node if node.op_type in RECURRENT_STATES]
    shapes = inferred_shapes(model) if layers else {}
    found = [shapes.get(node.input[0], (None,))[0] for node in layers]
    return bool(found) and None not in found


def with_batch(model: Any, size: int) -> Any:
    """The model with every dynamic dimension of its inputs fixed at `size`, and folded."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = size
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.ClearField("dim_param")
    del model.graph.value_info[:]
    return folded(model)


def folded(model: Any) -> Any:
    """The model with constants folded; itself where that fails."""
    import onnxslim

    try:
        return onnxslim.slim(model)
    except (Exception, SystemExit):  # noqa: BLE001 - a simplifier that fails costs nothing
        return model


def drop_zero_states(graph: Any) -> None:
    """Leave out the initial state of recurrent layers where it is zeros, which is the default.

    Exporters compute those zeros from the batch size, which onnx2tf then fixes.
    """
    makers = {output: node for node in graph.node for output in node.output}
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for position in RECURRENT_STATES.get(node.op_type, ()):
            if position < len(node.input) and _is_zeros(node.input[position], makers, values):
                node.input[position] = ""
    _prune(graph)


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


def inferred_shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    """The shape of every tensor that ONNX's own inference knows; None for a dynamic dimension."""
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except shape_inference.InferenceError:  # an operator of a domain that ONNX does not know
        graph = model.graph
    known = {
        value.name: _shape(value.type.tensor_type)
        for value in [*graph.input, *graph.value_info, *graph.output]
        if value.type.tensor_type.HasField("shape")
    }
    return known | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def refuse_varying_recurrence(graph: Any, shapes: dict[str, tuple[int | None, ...]]) -> None:
    """Raise StageError where a recurrent layer meets a dynamic batch or length that it cannot take.

    LiteRT's recurrent operators hold a state of one fixed size. GRU, and any layer that is given
    its state, is unrolled by onnx2tf: for the first row and the first step only, without a word.
    """
    for node in graph.node:
        if node.op_type not in RECURRENT_STATES:
            continue
        by_row = any(item.name == "layout" and item.i == 1 for item in node.attribute)
        length, batch = ((0, 1), (1, 0))[by_row]
        shape = shapes.get(node.input[0], ())
        if shape[batch : batch + 1] == (None,):
            raise _varying(node, "batch")
        if shape[length : length + 1] == (None,) and _is_unrolled(node):
            raise _varying(node, "sequence length")


def _is_unrolled(node: Any) -> bool:
    states = [node.input[i] for i in RECURRENT_STATES[node.op_type] if i < len(node.input)]
    return node.op_type != "LSTM" or any(states)


def _varying(node: Any, dimension: str) -> StageError:
    return StageError(
        f"operator {node.op_type} (layer {node.name}) has no TFLite equivalent with a dynamic "
        f"{dimension}",
        fix=f"give the model's inputs a fixed {dimension}, or leave the tflite targets out",
    )


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
        shape=_shape(tensor),
        dtype=str(helper.tensor_dtype_to_np_dtype(tensor.elem_type).name),
    )


def _shape(tensor: Any) -> tuple[int | None, ...]:
    """The shape that a value declares, None for a dynamic dimension."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def _add_integers(graph: Any, name: str, values: Sequence[int]) -> str:
    """Add a constant vector; its name."""
    from onnx import TensorProto, helper

    graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
    return name


def _is_zeros(name: str, makers: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether a tensor is zeros whatever the inputs are, as far as can be told."""
    from onnx import numpy_helper

    if name in values:
        return not numpy_helper.to_array(values[name]).any()
    node = makers.get(name)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        return all(not numpy_helper.to_array(item.t).any() for item in node.attribute)
    if node.op_type == "Constant":
        return all(
            item.name == "value" and not numpy_helper.to_array(item.t).any()
            for item in node.attribute
        )
    if node.op_type in ("Slice", "Expand", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Cast"):
        return _is_zeros(node.input[0], makers, values)
    return node.op_type == "Concat" and all(_is_zeros(i, makers, values) for i in node.input)


def _prune(graph: Any) -> None:
    """Remove the nodes that no output needs any more."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _reads(node: Any) -> Iterator[str]:
    """The names that a node reads, its inner graphs' included."""
    yield from node.input
    for inner in _inner(node):
        yield from (value.name for value in inner.output)
        for child in inner.node:
            yield from _reads(child)


def _inner(node: Any) -> Iterator[Any]:
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename what the nodes read, in inner graphs too."""
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        for inner in _inner(node):
            for value in inner.output:
                value.name = names.get(value.name, value.name)
            _rename(inner, names)


def _name_nodes(graph: Any) -> None:
    """Give each node a name, for errors."""
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
