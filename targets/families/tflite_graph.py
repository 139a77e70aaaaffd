"""What is done to an ONNX graph before onnx2tf sees it, so that the file does what the graph says.

Each rewrite keeps the graph's meaning. They work in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError

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


def prepare(path: Path) -> Prepared:
    """Read the ONNX file (external data included) and rewrite it for onnx2tf.

    Raises StageError for a model that is too large or whose opset cannot be brought up.
    """
    import onnx

    if sum(file.stat().st_size for file in path.parent.iterdir()) > FILE_LIMIT:
        raise StageError(
            "the model is larger than 2 GB, which a TFLite file cannot hold",
            fix="leave this target out, or split the model",
        )
    model = upgraded(onnx.load(str(path)))
    _name_nodes(model.graph)
    drop_zero_states(model.graph)
    widen_grouped_conv1d(model.graph)
    shapes = inferred_shapes(model)
    refuse_varying_recurrence(model.graph, shapes)
    spell_out_reshapes(model.graph, shapes)
    return isolate_ports(model)


def upgraded(model: Any) -> Any:
    """The model at MINIMUM_OPSET or newer."""
    from onnx import version_converter

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= MINIMUM_OPSET:
        return model
    try:
        return version_converter.convert_version(model, MINIMUM_OPSET)
    except Exception as error:
        raise StageError(
            f"the model's opset {opset} could not be brought to {MINIMUM_OPSET}, which TFLite "
            f"conversion needs: {error}",
            fix=f"export the model with opset {MINIMUM_OPSET} or newer",
        ) from error


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


def widen_grouped_conv1d(graph: Any) -> None:
    """Turn each grouped 1-D convolution into Unsqueeze -> 2-D convolution -> Squeeze.

    onnx2tf has no rule for the former and writes a custom operator in its place.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        groups = next((item.i for item in node.attribute if item.name == "group"), 1)
        if weight is None or len(weight.dims) != 3 or groups == 1:
            graph.node.append(node)
        else:
            graph.node.extend(_widened(graph, node, weight))


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
    return node.op_type == "GRU" or any(states)


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


def isolate_ports(model: Any) -> Prepared:
    """Give inputs and outputs plain names, and flatten every output.

    onnx2tf renames some characters, and drops or adds the transposition before an output as it
    likes. It cannot do so before a flattening without changing what the graph computes, so the
    flat output has the ONNX graph's order of elements, and `tflite_file.finish` gives it its
    shape back.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in weights]
    inputs = tuple(_port(value, f"input_{index}") for index, value in enumerate(given))
    outputs = tuple(_port(value, f"output_{index}") for index, value in enumerate(graph.output))
    _rename(graph, {port.name: port.alias for port in inputs})
    for value, port in zip(given, inputs, strict=True):
        value.name = port.alias
    _flatten_outputs(graph, outputs, {port.name: port.alias for port in inputs})
    return Prepared(model=model, inputs=inputs, outputs=outputs)


def _flatten_outputs(graph: Any, ports: tuple[Port, ...], renamed: dict[str, str]) -> None:
    from onnx import helper

    shape = _add_integers(graph, "output_flat_shape", [-1])
    kinds = [value.type.tensor_type.elem_type for value in graph.output]
    del graph.output[:]
    for port, kind in zip(ports, kinds, strict=True):
        source = renamed.get(port.name, port.name)
        graph.node.append(
            helper.make_node("Reshape", [source, shape], [port.alias], name=f"{port.alias}_flat")
        )
        size = None if None in port.shape else prod(size or 0 for size in port.shape)
        graph.output.append(helper.make_tensor_value_info(port.alias, kind, [size]))


def _port(value: Any, alias: str) -> Port:
    from onnx import helper

    tensor = value.type.tensor_type
    return Port(
        name=value.name,
        alias=alias,
        shape=_shape(tensor),
        dtype=str(helper.tensor_dtype_to_np_dtype(tensor.elem_type).name),
    )


def _shape(tensor: Any) -> tuple[int | None, ...]:
    """The shape that a value declares, None for a dynamic dimension."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def _widened(graph: Any, node: Any, weight: Any) -> Iterator[Any]:
    """The nodes that replace one grouped 1-D convolution."""
    from onnx import helper, numpy_helper

    stem = node.output[0]
    axes = _add_integers(graph, f"{stem}_axes", [2])
    filters = f"{stem}_filters"
    graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(weight)[:, :, None], filters)
    )
    inputs = [f"{stem}_wide_in", filters, *node.input[2:]]
    yield helper.make_node("Unsqueeze", [node.input[0], axes], [inputs[0]], name=f"{node.name}_in")
    wide = helper.make_node("Conv", inputs, [f"{stem}_wide_out"], name=node.name)
    wide.attribute.extend(_attribute_2d(item) for item in node.attribute)
    yield wide
    yield helper.make_node(
        "Squeeze", [wide.output[0], axes], [node.output[0]], name=f"{node.name}_out"
    )


def _add_integers(graph: Any, name: str, values: Sequence[int]) -> str:
    """Add a constant vector; its name."""
    from onnx import TensorProto, helper

    graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
    return name


def _attribute_2d(item: Any) -> Any:
    from onnx import helper

    values = list(item.ints)
    if item.name == "pads":
        return helper.make_attribute("pads", [0, values[0], 0, values[1]])
    if item.name in ("kernel_shape", "strides", "dilations"):
        return helper.make_attribute(item.name, [1, *values])
    return item


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
