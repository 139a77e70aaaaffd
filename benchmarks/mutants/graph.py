"""An ONNX graph that is changed: its weights as arrays, operators put in and taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or a product with constant weights.

    weight, bias: names of constants; bias is empty where there is none, or one value for all
        channels. axis: of the output channels in `weight`. groups: of a convolution, else 1.
    """

    node: NodeProto
    weight: str
    bias: str
    axis: int
    groups: int


class Graph:
    """The main graph of a model, to be changed in place."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants: dict[str, TensorProto] = {it.name: it for it in self.graph.initializer}
        self.inputs = [it for it in self.graph.input if it.name not in self.constants]
        self.made = 0

    def nodes(self, *operators: str) -> list[NodeProto]:
        """The nodes of these operators, in order; all of them for none."""
        return [node for node in self.graph.node if not operators or node.op_type in operators]

    def producer(self, name: str) -> NodeProto | None:
        """The node that computes a value; None for inputs and constants."""
        return next((node for node in self.graph.node if name in node.output), None)

    def readers(self, name: str) -> list[NodeProto]:
        """The nodes that read a value."""
        return [node for node in self.graph.node if name in node.input]

    def read(self, name: str) -> Array:
        """A copy of a constant."""
        return np.array(numpy_helper.to_array(self.constants[name]))

    def change(self, name: str, change: Callable[[Array], Array]) -> None:
        """Put a constant through a function; its dtype stays."""
        before = self.read(name)
        after = np.ascontiguousarray(change(before)).astype(before.dtype)
        self.constants[name].CopyFrom(numpy_helper.from_array(after, name))

    def layers(self) -> list[Layer]:
        """The convolutions and products with constant weights that only they read, in order."""
        found = (self._layer(node) for node in self.nodes(*PRODUCTS))
        return [layer for layer in found if layer is not None]

    def constant(self, values: Any) -> str:
        """A new constant; gives its name."""
        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def feed(self, name: str, operator: str, *constants: str, **attributes: Any) -> None:
        """Put an operator between a value and those that read it; the last one fed runs first."""
        fed = self._name(name)
        for node in self.graph.node:
            node.input[:] = [fed if its == name else its for its in node.input]
        place = self._place(name)
        node = helper.make_node(operator, [name, *constants], [fed], **attributes)
        self.graph.node.insert(place, node)

    def drain(self, name: str, operator: str, *constants: str, **attributes: Any) -> None:
        """Put an operator between an output and what computes it; the last one drained runs last.

        Those that read the output inside the graph read what came before.
        """
        raw = self._name(name)
        for node in self.graph.node:
            for names in (node.input, node.output):
                names[:] = [raw if its == name else its for its in names]
        node = helper.make_node(operator, [raw, *constants], [name], **attributes)
        self.graph.node.append(node)

    def replace(self, node: NodeProto, operator: str, inputs: list[str], **attributes: Any) -> None:
        """Put another operator in a node's place."""
        node.CopyFrom(helper.make_node(operator, inputs, list(node.output), **attributes))

    def attribute(self, node: NodeProto, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        found = next((entry for entry in node.attribute if entry.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def set(self, node: NodeProto, **values: Any) -> None:
        """Give attributes other values."""
        kept = [entry for entry in node.attribute if entry.name not in values]
        added = [helper.make_attribute(name, value) for name, value in values.items()]
        del node.attribute[:]
        node.attribute.extend([*kept, *added])

    def shape(self, value: Any) -> list[int | None]:
        """The declared shape of an input or output; None for sizes of any kind."""
        dims = value.type.tensor_type.shape.dim
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]

    def is_float(self, value: Any) -> bool:
        """Whether an input or output is float32."""
        return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)

    def _name(self, stem: str) -> str:
        self.made += 1
        return f"{stem}/mutant{self.made}"

    def _place(self, name: str) -> int:
        """The first place where a value is known."""
        for index, node in enumerate(self.graph.node):
            if name in node.output:
                return index + 1
        return 0

    def _layer(self, node: NodeProto) -> Layer | None:
        weight = node.input[1]
        if weight not in self.constants or len(self.readers(weight)) > 1:
            return None
        groups = self.attribute(node, "group", 1)
        axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)
        if axis is None:
            axis = 0 if self.attribute(node, "transB", 0) else 1
        return Layer(node=node, weight=weight, bias=self._bias(node), axis=axis, groups=groups)

    def _bias(self, node: NodeProto) -> str:
        names = list(node.input[2:3])
        if node.op_type == "MatMul":
            readers = self.readers(node.output[0])
            adds = len(readers) == 1 and readers[0].op_type == "Add"
            names = [name for name in readers[0].input if name in self.constants] if adds else []
        return next((it for it in names if it in self.constants and self.read(it).size > 1), "")
