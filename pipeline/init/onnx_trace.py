"""What an ONNX graph shows of its inputs: tables that they index, constants that they meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crosscast.pipeline.init.facts import Input
from crosscast.targets.families.onnx import graphs

PASSING = {
    **dict.fromkeys(
        ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Expand",
         "Slice", "Split", "Tile", "Dropout", "Gather"),
        (0,),
    ),
    "Where": (1, 2),  # how Keras lets indices count from the end
}  # fmt: skip
"""Operators that hand values on as they are, and which of their inputs."""
COMPARISONS = ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
SMALL = 4096  # elements of a constant that is worth reading


@dataclass(frozen=True)
class Use:
    """A node that takes an input's values unchanged, and at which place of its inputs."""

    node: Any
    place: int


class Graph:
    """The nodes of a model, its constants, and who takes what; subgraphs included."""

    def __init__(self, model: Any) -> None:
        every = list(graphs(model.graph))
        self.nodes = [node for graph in every for node in graph.node]
        self.weights = {tensor.name: tensor for graph in every for tensor in graph.initializer}
        for node in self.nodes:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.weights[node.output[0]] = attribute.t
        self.makers = {name: node for node in self.nodes for name in node.output}
        self._takers: dict[str, list[Use]] = {}
        for node in self.nodes:
            for place, name in enumerate(node.input):
                self._takers.setdefault(name, []).append(Use(node, place))

    def uses(self, name: str) -> Iterator[Use]:
        """What takes the values of `name`, directly or through operators that hand them on."""
        waiting, seen = [name], {name}
        while waiting:
            for use in self._takers.get(waiting.pop(), ()):
                if use.place in PASSING.get(use.node.op_type, ()):
                    waiting.extend(set(use.node.output) - seen)
                    seen.update(use.node.output)
                else:
                    yield use

    def is_constant(self, name: str) -> bool:
        """Whether it is a weight, or made of weights alone (dequantized, transposed)."""
        while name not in self.weights:
            node = self.makers.get(name)
            if node is None or not node.input:
                return node is not None
            if len(node.input) > 1 and node.op_type not in (*PASSING, "DequantizeLinear"):
                return False
            name = node.input[0]
        return True

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight, or of one that is dequantized or handed on; empty where it is none."""
        node = self.makers.get(name)
        if name not in self.weights and node is not None and node.op_type == "DequantizeLinear":
            name = node.input[0]
        return tuple(self.weights[name].dims) if name in self.weights else ()

    def values(self, name: str) -> list[float]:
        """Of a small constant; empty where it is none."""
        from onnx import numpy_helper

        tensor = self.weights.get(name)
        if tensor is None or tensor.data_location == tensor.EXTERNAL:
            return []
        if int(np.prod(tensor.dims)) > SMALL:
            return []
        array = numpy_helper.to_array(tensor)
        return [float(one) for one in array.ravel()] if array.dtype.kind in "fiub" else []


def table(graph: Graph, name: str) -> int:
    """The rows of the smallest table that the input indexes; 0 where it indexes none."""
    rows = []
    for use in graph.uses(name):
        if use.node.op_type == "Gather" and use.place == 1:
            axis = next((item.i for item in use.node.attribute if item.name == "axis"), 0)
            shape = graph.shape(use.node.input[0])
            rows += [shape[axis]] if shape else []
        if use.node.op_type == "OneHot" and use.place == 0:
            rows += [int(depth) for depth in graph.values(use.node.input[1])]
    return min(rows, default=0)


def compared(graph: Graph, name: str) -> list[float]:
    """The constants that the input is compared with, in the graph's order."""
    found: dict[float, None] = {}
    for use in graph.uses(name):
        if use.node.op_type in COMPARISONS:
            found.update(dict.fromkeys(graph.values(use.node.input[1 - use.place])))
    return list(found)


def is_bytes(graph: Graph, name: str) -> bool:
    """Whether the graph itself brings pixels of 0 to 255 to the scale that it works in."""
    for use in graph.uses(name):
        kind = use.node.op_type
        others = [value for place, other in enumerate(use.node.input) if place != use.place
                  for value in graph.values(other)]  # fmt: skip
        if kind == "Div" and use.place == 0 and others and min(others) > 40:
            return True
        if kind == "Mul" and others and 0 < max(others) < 0.03:
            return True
        if kind in ("Sub", "Add") and others and 60 < max(map(abs, others)) <= 255:
            return True
        if kind == "BatchNormalization" and use.place == 0:
            mean = graph.values(use.node.input[3])
            if mean and 60 < max(mean) <= 255:
                return True
    return False


def refined(one: Input, graph: Graph) -> Input:
    """The input with the range that the graph shows, where it shows one."""
    rows = table(graph, one.name)
    if rows > 1 and one.dtype.startswith(("int", "uint")):
        return replace(one, range=(0, rows - 1), why=f"it indexes a table of {rows} rows")
    if one.dtype.startswith("float") and len(one.shape) == 4 and is_bytes(graph, one.name):
        return replace(one, range=(0, 255), why="pixels: the model scales them itself")
    return one


def operators(graph: Graph) -> dict[str, int]:
    """How often each operator occurs. A MatMul or Gemm of two activations is no layer: pairs of
    them around a Softmax count as Attention.
    """
    found: dict[str, int] = {}
    free = 0
    for node in graph.nodes:
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        if kind in ("MatMul", "Gemm") and not graph.is_constant(node.input[1]):
            free += 1
        else:
            found[kind] = found.get(kind, 0) + 1
    attention = min(free // 2, found.get("Softmax", 0))
    return found | ({"Attention": attention} if attention else {})
