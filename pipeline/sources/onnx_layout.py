"""The layout of an ONNX model's inputs and outputs, changed by transposes at its edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crosscast.pipeline.signature import Layout, Signature, Tensor, axes
from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.onnx_weights import free


def relayout(model: Any, signature: Signature, layout: Layout | None) -> Any:
    """The model with its image inputs and outputs in `layout`; names and order are kept.

    signature: inputs and outputs as the model has them now. Changes `model` itself.
    """
    graph = model.graph
    before, after = [], []
    for tensor in signature.inputs:
        wanted = tensor.permuted(layout)
        order = axes(wanted.layout, tensor.layout)
        if order is not None:
            inner = renamed(graph, tensor.name)
            before.append(_transpose(tensor.name, inner, order))
            _declare(graph.input, wanted)
    for tensor in signature.outputs:
        wanted = tensor.permuted(layout)
        order = axes(tensor.layout, wanted.layout)
        if order is not None:
            inner = renamed(graph, tensor.name)
            after.append(_transpose(inner, tensor.name, order))
            _declare(graph.output, wanted)
    _surround(graph, before, after)
    return model


def rename_outputs(model: Any, names: Sequence[str]) -> Any:
    """The model with other names for its outputs, in order. Changes `model` itself."""
    from onnx import helper

    after = []
    for value, name in zip(model.graph.output, names, strict=True):
        if value.name != name:
            after.append(helper.make_node("Identity", [value.name], [name], name=f"to_{name}"))
            value.name = name
    _surround(model.graph, [], after)
    return model


def declare_missing_shapes(model: Any, outputs: Sequence[Tensor]) -> Any:
    """The model with shapes for the outputs that the file gives none. Changes `model` itself."""
    for value, tensor in zip(model.graph.output, outputs, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            _declare(model.graph.output, tensor)
    return model


def renamed(graph: Any, name: str) -> str:
    """Rename a value wherever nodes read or write it, also inside control flow; its new name."""
    taken = {value for node in graph.node for value in (*node.input, *node.output)}
    inner = free(f"{name}_inner", taken)
    for owner in graphs(graph):
        for node in owner.node:
            for values in (node.input, node.output):
                for index, value in enumerate(values):
                    if value == name:
                        values[index] = inner
    # what a branch gives back is named in its outputs, too
    for owner in list(graphs(graph))[1:]:
        for value in owner.output:
            if value.name == name:
                value.name = inner
    return inner


def _transpose(source: str, target: str, order: tuple[int, ...]) -> Any:
    from onnx import helper

    return helper.make_node(
        "Transpose", [source], [target], name=f"layout_{source}_{target}", perm=order
    )


def _declare(values: Any, tensor: Tensor) -> None:
    """Permute the declared shape of one of the graph's inputs or outputs."""
    from onnx import helper

    value = next(value for value in values if value.name == tensor.name)
    value.CopyFrom(
        helper.make_tensor_value_info(
            tensor.name, value.type.tensor_type.elem_type, list(tensor.shape)
        )
    )


def _surround(graph: Any, before: list[Any], after: list[Any]) -> None:
    nodes = [*before, *graph.node, *after]
    if len(nodes) > len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
