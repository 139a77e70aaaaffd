"""Instance norms, as group norms are exported to, whose sums are taken in stages.

ONNX Runtime's kernel on the CPU adds up a row of any length in one go. Where the values are alike,
as on a plain background, every addition rounds the same way: of a row of 400 000 it keeps 68 dB,
where PyTorch keeps 126 dB, of one of a million 64 dB. Sums of parts that are summed in turn are as
exact as PyTorch's. They take 1.4 to 6 times as long, so that only models have them whose outputs
suffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import SAID, read_notes
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_weights
from crosscast.targets.families.onnx_widen import INNER, inputs_for, session_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

FLOAT = 1
"""ONNX's number of the element type."""

MARGIN_DB = 10.0
"""What models may differ by less than the limit: other inputs differ more."""

LONG = 2**14
"""Elements of a row, where their number is known, from which it is taken in stages: of 40 000 that
are alike a norm keeps 98 dB."""

EPSILON = 1e-5
"""What ONNX adds to a variance where a node does not say."""

AXES_AS_INPUT = 18
"""The opset from which ReduceMean takes its axes as an input."""


STAGES = "long rows are normalised in stages, since ONNX Runtime's own sums of them lose digits"


def convert(*, model: Path, options: Mapping[str, Any], out: Path) -> None:
    """Write the model as fp32 ONNX, as `onnx.convert` does, with norms in stages where needed."""
    family.convert(model=model, options=options, out=out)
    made, said = steadied(family.load(out), tree=out)
    if not said:
        return
    (out / family.DATA).unlink(missing_ok=True)
    family.save(made, out)
    family.check(out, "the model with norms in stages")
    family.carry(model, out, **(read_notes(out) | {SAID: said}))


def steadied(model: ModelProto, *, tree: Path) -> tuple[ModelProto, str]:
    """The model, with norms in stages where that changes an output by more than fp32 allows, and
    what is to be said of it.

    tree: holds its signature and notes. A file that was ONNX already stays as it is: what its
    runtime computes of it is the truth.
    """
    if family.EXPORTER not in read_notes(tree) or not any(
        node.op_type == "InstanceNormalization" for node in model.graph.node
    ):
        return model, ""
    typed = family.with_types(model)
    made = onnx_weights.copied(model)
    staged = _staged(made.graph, _shapes(typed.graph), family.opset(model))
    return (made, STAGES) if staged and _suffers(model, made, tree) else (model, "")


def _suffers(model: ModelProto, staged: ModelProto, tree: Path) -> bool:
    """Whether the models' answers to made inputs differ by too much."""
    from crosscast.pipeline.parity.metrics import Extent, compare
    from crosscast.pipeline.parity.tolerance import TOLERANCES

    least = TOLERANCES["fp32"].min_snr_db + MARGIN_DB
    try:
        sessions = session_of(model), session_of(staged)
    except StageError:  # nothing can be told by a model that does not run
        return False
    for _, arrays in inputs_for(model, tree, None):
        try:
            one, other = (session.run(arrays) for session in sessions)
        except StageError:  # made inputs need not be such as the model takes
            continue
        found = (
            compare(wanted, one[name], typical=Extent()).snr_db
            for name, wanted in other.items()
            if not name.startswith(INNER)
        )
        if any(snr_db is not None and snr_db < least for snr_db in found):
            return True
    return False


def _staged(graph: GraphProto, shapes: Mapping[str, list[int]], version: int) -> bool:
    """Take the norms of a graph that have long rows apart; whether there was one that can be."""
    nodes: list[NodeProto] = []
    makers = {name: node for node in graph.node for name in node.output}
    names = onnx_weights.names_of(graph)
    for node in graph.node:
        shape = shapes.get(node.input[0], []) if node.op_type == "InstanceNormalization" else []
        part = _part(shape, makers.get(node.input[0]), shapes) if len(shape) == 3 else 0
        can = part or len(shape) > 3
        if can and (math.prod(shape[2:]) or LONG) >= LONG:
            nodes += _Stages(graph, node, names, version).nodes(part, len(shape))
        else:
            nodes.append(node)
    changed = len(nodes) > len(graph.node)
    onnx_weights.replace_nodes(graph, nodes)
    return changed


def _part(shape: list[int], maker: NodeProto | None, shapes: Mapping[str, list[int]]) -> int:
    """A length that those of flat rows are a multiple of; 0 where none is known.

    maker: of the tensor. What is flattened to rows ends with whole lines of what it was.
    """
    lines = shapes.get(maker.input[0], []) if maker and maker.op_type == "Reshape" else []
    return _divisor(shape[2]) or (lines[-1] if lines else 0)


def _divisor(length: int) -> int:
    """The divisor next to the square root, from below; 0 for none above 1."""
    return next((size for size in range(math.isqrt(length), 1, -1) if length % size == 0), 0)


def _shapes(graph: GraphProto) -> dict[str, list[int]]:
    """The sizes of tensors, 0 for an unknown one."""
    values = (*graph.input, *graph.output, *graph.value_info)
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
        if value.type.tensor_type.HasField("shape") and value.type.tensor_type.elem_type == FLOAT
    }


class _Stages:
    """Writes one norm in operators of its own, its constants among the graph's."""

    def __init__(self, graph: GraphProto, node: NodeProto, names: set[str], version: int) -> None:
        self._graph, self._node, self._names, self._version = graph, node, names, version
        self._made: list[NodeProto] = []

    def nodes(self, part: int, rank: int) -> list[NodeProto]:
        """part: a divisor of flat rows, 0 for rows that are not."""
        x, scale, bias = self._node.input
        wide = max(rank, 4)
        data = self._add("Reshape", x, self._constant([0, 0, -1, part])) if part else x
        centred = self._add("Sub", data, self._mean(data, wide))
        variance = self._mean(self._add("Mul", centred, centred), wide)
        epsilon = onnx_weights.attribute(self._node, "epsilon", EPSILON)
        spread = self._add("Sqrt", self._add("Add", variance, self._constant(epsilon)))
        column = self._constant([-1, *[1] * (wide - 2)])
        factor = self._add("Div", self._add("Reshape", scale, column), spread)
        scaled = self._add("Mul", centred, factor)
        moved = self._add("Add", scaled, self._add("Reshape", bias, column))
        if part:
            moved = self._add("Reshape", moved, self._add("Shape", x))
        self._made[-1].output[0] = self._node.output[0]
        return self._made

    def _mean(self, name: str, rank: int) -> str:
        """Of the rows: of each line, and of all lines."""
        lines = self._reduced(name, [rank - 1])
        return self._reduced(lines, list(range(2, rank - 1)))

    def _reduced(self, name: str, axes: list[int]) -> str:
        if self._version >= AXES_AS_INPUT:
            return self._add("ReduceMean", name, self._constant(axes), keepdims=1)
        return self._add("ReduceMean", name, axes=axes, keepdims=1)

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        import onnx

        name = self._free(operator)
        node = onnx.helper.make_node(operator, inputs, [name], name, **attributes)
        self._made.append(node)
        return name

    def _constant(self, value: Any) -> str:
        import numpy as np
        from onnx import numpy_helper

        name = self._free("constant")
        array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _free(self, what: str) -> str:
        base = self._node.name or self._node.output[0]
        return onnx_weights.free(f"{base}/{what}", self._names)
