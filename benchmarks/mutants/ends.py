"""Mutations of what goes into a network and comes out of it, as in `layers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mutants.graph import Array, Graph

Range = tuple[float, float]


def bgr(graph: Graph) -> bool:
    """The three colours of an image come in reverse order."""
    images = [(value, _channels(graph, value)) for value in _floats(graph)]
    coloured = [(it, axis) for it, axis in images if axis and graph.shape(it)[axis] == 3]
    for value, axis in coloured:
        graph.feed(value.name, "Gather", graph.constant(np.array([2, 1, 0])), axis=axis)
    return bool(coloured)


def other_layout(graph: Graph) -> bool:
    """An image's numbers are taken to lie in the other layout: reshaped, not transposed."""
    found = False
    for value in _floats(graph):
        shape, axis = graph.shape(value), _channels(graph, value)
        if axis is None or shape[axis] == 1 or None in shape[1:]:
            continue
        rest = [size for place, size in enumerate(shape) if place not in (0, axis)]
        channels = shape[axis]
        read, back = (
            ([-1, *rest, channels], [0, 3, 1, 2])
            if axis == 1
            else ([-1, channels, *rest], [0, 2, 3, 1])
        )
        graph.feed(value.name, "Transpose", perm=back)
        graph.feed(value.name, "Reshape", graph.constant(np.array(read)))
        found = True
    return found


def one_off(graph: Graph) -> bool:
    """What is read begins one pixel, sample or step too early: the last one is lost."""
    found = False
    for value in _floats(graph):
        axes = _places(graph, value)
        if not axes:
            continue
        pads = np.zeros(2 * len(graph.shape(value)), np.int64)
        pads[axes] = 1
        ends = graph.constant(np.full(len(axes), -1))
        starts = graph.constant(np.zeros(len(axes), np.int64))
        graph.feed(value.name, "Pad", graph.constant(pads))
        graph.feed(value.name, "Slice", starts, ends, graph.constant(np.array(axes)))
        found = True
    return found


def bytes_for_range(graph: Graph, ranges: Mapping[str, Range]) -> bool:
    """Inputs from 0 to 255 in place of the declared range."""
    return _rescaled(graph, ranges, (0.0, 255.0))


def unit_for_range(graph: Graph, ranges: Mapping[str, Range]) -> bool:
    """Inputs from 0 to 1 in place of the declared range."""
    return _rescaled(graph, ranges, (0.0, 1.0))


def last_activation_dropped(graph: Graph) -> bool:
    """What an output's last activation is given is the output."""
    found = False
    for value in graph.graph.output:
        node = graph.producer(value.name)
        if node is not None and node.op_type in ("Softmax", "Sigmoid", "Tanh", "Relu", "Clip"):
            graph.replace(node, "Identity", [node.input[0]])
            found = True
    return found


def softmax_added(graph: Graph) -> bool:
    """A softmax more over the last axis of every output that has one."""
    found = False
    for value in graph.graph.output:
        if graph.is_float(value) and len(shape := graph.shape(value)) > 1 and shape[-1] != 1:
            graph.drain(value.name, "Softmax", axis=-1)
            found = True
    return found


def outputs_exchanged(graph: Graph) -> bool:
    """The first two outputs of the same shape change places."""
    seen: dict[tuple[Any, ...], str] = {}
    for value in graph.graph.output:
        key = (graph.is_float(value), *graph.shape(value))
        if key in seen:
            _exchange(graph, seen[key], value.name)
            return True
        seen[key] = value.name
    return False


def classes_rolled(graph: Graph) -> bool:
    """The classes of every output are one off, as with a background class."""
    found = False
    for value in graph.graph.output:
        shape = graph.shape(value)
        if graph.is_float(value) and shape and (shape[-1] or 0) > 1:
            order = np.roll(np.arange(shape[-1]), 1)
            graph.drain(value.name, "Gather", graph.constant(order), axis=-1)
            found = True
    return found


def zero_output(graph: Graph) -> bool:
    """Every output is 0, whatever goes in."""
    return _scaled(graph, {value.name: np.float32(0) for value in graph.graph.output})


def constant_output(graph: Graph, means: Mapping[str, Array]) -> bool:
    """Every output is its mean over the reference's cases: the best that a constant can do."""
    return _scaled(graph, means)


def _scaled(graph: Graph, added: Mapping[str, Array]) -> bool:
    values = [value.name for value in graph.graph.output if graph.is_float(value)]
    for name in values:
        graph.drain(name, "Mul", graph.constant(np.float32(0)))
        graph.drain(name, "Add", graph.constant(np.asarray(added[name], np.float32)))
    return bool(values)


def _rescaled(graph: Graph, ranges: Mapping[str, Range], wanted: Range) -> bool:
    """Feed the network what its declared range becomes where it is mapped to another one."""
    found = False
    for value in _floats(graph):
        low, high = ranges.get(value.name, wanted)
        if (low, high) == wanted:
            continue
        factor = (wanted[1] - wanted[0]) / (high - low)
        offset = wanted[0] - low * factor
        # the last one fed is the first one run
        graph.feed(value.name, "Add", graph.constant(np.float32(offset)))
        graph.feed(value.name, "Mul", graph.constant(np.float32(factor)))
        found = True
    return found


def _exchange(graph: Graph, one: str, other: str) -> None:
    names = {one: other, other: one}
    for node in graph.nodes():
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def _floats(graph: Graph) -> list[Any]:
    return [value for value in graph.inputs if graph.is_float(value)]


def _channels(graph: Graph, value: Any) -> int | None:
    """The axis of an image's channels; None for what is no image."""
    shape = graph.shape(value)
    if len(shape) != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] in (1, 3)), None)


def _places(graph: Graph, value: Any) -> list[int]:
    """The axes of places: height and width of images, time or features of all else."""
    channels = _channels(graph, value)
    if channels is not None:
        return [axis for axis in (1, 2, 3) if axis != channels]
    return [1] if len(graph.shape(value)) in (2, 3) else []
