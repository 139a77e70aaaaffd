"""Replacing nodes of an ONNX graph by others, everywhere in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.onnx import graphs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


class Spelling:
    """Collects the nodes that stand in the place of one, with names of their own."""

    def __init__(self, node: NodeProto, number: int) -> None:
        self.nodes: list[Any] = []
        self._stem = f"{node.output[0]}_as_{number}"
        self._name = node.name

    def __call__(
        self, operator: str, inputs: Sequence[str], *, output: str = "", **attributes: Any
    ) -> str:
        """Add a node; the name of what it gives."""
        from onnx import helper

        count = len(self.nodes)
        given = output or f"{self._stem}_{count}"
        name = f"{self._name or self._stem}_{operator}_{count}"
        self.nodes.append(helper.make_node(operator, inputs, [given], name=name, **attributes))
        return given

    def constant(self, value: Any) -> str:
        """Add a constant: a float32 for a float, int64 for integers; its name."""
        import numpy as np

        return self.array(np.asarray(value, np.float32 if isinstance(value, float) else np.int64))

    def array(self, values: Any) -> str:
        """Add a constant of an array's own dtype; its name."""
        from onnx import numpy_helper

        return self("Constant", [], value=numpy_helper.from_array(values))


Adapter = Callable[["NodeProto", Spelling], Any]


def replace_nodes(model: ModelProto, adapters: Mapping[str, Adapter]) -> None:
    """Have each node of an operator in `adapters` replaced by what its adapter spells.

    One that gives False has kept its node, changed or not. Works in place, in inner graphs too.
    """
    number = 0
    for graph in list(graphs(model.graph)):
        if not any(node.op_type in adapters for node in graph.node):
            continue
        nodes = []
        for node in graph.node:
            adapter = adapters.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            spell = Spelling(node, number)
            kept = adapter is None or adapter(node, spell) is False
            number += adapter is not None
            nodes.extend([*spell.nodes, node] if kept else spell.nodes)
        new = [_copied(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(new)


def integer(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def drop_attribute(node: NodeProto, name: str) -> None:
    """Remove an attribute where it is there."""
    for entry in [entry for entry in node.attribute if entry.name == name]:
        node.attribute.remove(entry)


def _copied(node: NodeProto) -> NodeProto:
    copy: NodeProto = type(node)()
    copy.CopyFrom(node)
    return copy
