"""Recurrent layers in an ONNX graph: what they read, and where LiteRT has nothing for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.onnx_walk import prune
from crosscast.targets.families.tflite_shapes import Shapes, inferred_shapes, with_shapes

MOST_UNROLLED = 128
"""Steps of all layers of a dynamic length: onnx2tf takes minutes for so many."""

RECURRENT_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}


def recurs_over_fixed_lengths(model: Any) -> bool:
    lengths = [length for length, _ in _recurrent_sizes(model)]
    return bool(lengths) and None not in lengths


def recurrent_lengths(path: Path, least: Shapes, greatest: Shapes) -> dict[str, int]:
    """How long what each unrolled recurrent layer reads is for the `greatest` inputs, by its name,
    as far as that is more than for the `least`.

    Raises StageError for more steps in all than MOST_UNROLLED.
    """
    import onnx

    model = onnx.load(str(path))
    name_nodes(model.graph)
    if not any(node.op_type in RECURRENT_STATES for node in model.graph.node):
        return {}
    any_batch = recurs_over_any_batch(model)
    low = {node.name: length for node, length in _unrolled(path, least, any_batch)}
    found = [
        (node, length)
        for node, length in _unrolled(path, greatest, any_batch)
        if length != low.get(node.name)
    ]
    ways = [
        1 + any(item.name == "direction" and item.s == b"bidirectional" for item in node.attribute)
        for node, _ in found
    ]
    if sum(length * way for (_, length), way in zip(found, ways, strict=True)) > MOST_UNROLLED:
        raise StageError("the recurrent layers have too many steps to spell out")
    return {node.name: length for node, length in found}


def _unrolled(path: Path, shapes: Shapes, any_batch: bool) -> list[tuple[Any, int]]:
    """The recurrent layers that LiteRT has no operator for, with their lengths."""
    import onnx

    model = onnx.load(str(path))
    name_nodes(model.graph)
    model = with_shapes(model, shapes)
    drop_zero_states(model.graph)
    layers = [node for node in model.graph.node if node.op_type in RECURRENT_STATES]
    return [
        (node, length)
        for node, (length, _) in zip(layers, _recurrent_sizes(model), strict=True)
        if length and (any_batch or _is_unrolled(node))
    ]


def recurs_over_any_batch(model: Any) -> bool:
    return any(batch is None for _, batch in _recurrent_sizes(model))


def _recurrent_sizes(model: Any) -> list[tuple[int | None, int | None]]:
    """The length and the batch that each recurrent layer reads; None for a dynamic one."""
    layers = [node for node in model.graph.node if node.op_type in RECURRENT_STATES]
    shapes = inferred_shapes(model) if layers else {}
    found = [[*shapes.get(node.input[0], ()), None, None][:2] for node in layers]
    pairs = zip(layers, found, strict=True)
    return [(two, one) if _is_by_row(node) else (one, two) for node, (one, two) in pairs]


def _is_by_row(node: Any) -> bool:
    """Whether the batch comes first in what a recurrent layer reads."""
    return any(item.name == "layout" and item.i == 1 for item in node.attribute)


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
    prune(graph)


def refuse_varying_recurrence(graph: Any, shapes: dict[str, tuple[int | None, ...]]) -> None:
    """Raise StageError where a recurrent layer meets a dynamic batch or length that it cannot take.

    LiteRT's recurrent operators hold a state of one fixed size. GRU, and any layer that is given
    its state, is unrolled by onnx2tf: for the first row and the first step only, without a word.
    """
    for node in graph.node:
        if node.op_type not in RECURRENT_STATES:
            continue
        length, batch = ((0, 1), (1, 0))[_is_by_row(node)]
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
        fix=f"give the model's inputs a fixed {dimension}, declare greatest lengths that make "
        f"{MOST_UNROLLED} steps of all recurrent layers at most, or leave the tflite targets out",
    )


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


def name_nodes(graph: Any) -> None:
    """Give each node a name, for errors."""
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
