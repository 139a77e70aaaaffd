"""An fp16 model as a processor with fp16 arithmetic runs it, on one that has none.

ONNX Runtime's CPU has few fp16 kernels: it computes in float32 and leaves out the rounding between
operators, so that what overflows on a GPU does not overflow there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosscast.targets.families import onnx_weights
from crosscast.targets.families.onnx import graphs, with_types

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

FLOAT, FLOAT16 = 1, 10
"""ONNX's numbers of the element types."""


def strict(model: ModelProto) -> ModelProto:
    """The fp16 model in float32, with every tensor that is float16 rounded to it by two casts."""
    typed = with_types(model)
    taken = onnx_weights.names_of(typed.graph)
    every = list(graphs(typed.graph))
    narrow = {name for graph in every for name in _narrow(graph)}
    for graph in every[::-1]:  # inner graphs first: replacing nodes copies what is in them
        _round(graph, narrow, taken)
    for graph in graphs(typed.graph):
        for value in (*graph.input, *graph.output):
            _retype(value.type)
        del graph.value_info[:]
    return typed


def _narrow(graph: GraphProto) -> set[str]:
    values = (*graph.output, *graph.value_info)
    return {value.name for value in values if value.type.tensor_type.elem_type == FLOAT16}


def _round(graph: GraphProto, narrow: set[str], taken: set[str]) -> None:
    nodes: list[NodeProto] = []
    for node in graph.node:
        _widen_attributes(node)
        nodes.append(node)
        controls = any(entry.HasField("g") or entry.graphs for entry in node.attribute)
        for index, name in enumerate(node.output) if not controls else ():
            if name in narrow:
                node.output[index], half = (
                    onnx_weights.free(f"{name}/{part}", taken) for part in ("exact", "half")
                )
                nodes += [_cast(node.output[index], half, FLOAT16), _cast(half, name, FLOAT)]
    onnx_weights.replace_nodes(graph, nodes)
    for tensor in graph.initializer:
        _widen(tensor)


def _widen_attributes(node: NodeProto) -> None:
    for entry in node.attribute:
        if entry.HasField("t"):
            _widen(entry.t)
        elif entry.name in ("to", "dtype") and entry.i == FLOAT16:
            entry.i = FLOAT


def _widen(tensor: TensorProto) -> None:
    import numpy as np
    from onnx import numpy_helper

    if tensor.data_type == FLOAT16:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _retype(kind: TypeProto) -> None:
    if kind.HasField("sequence_type"):
        _retype(kind.sequence_type.elem_type)
    elif kind.tensor_type.elem_type == FLOAT16:
        kind.tensor_type.elem_type = FLOAT


def _cast(source: str, target: str, kind: int) -> NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], to=kind)
