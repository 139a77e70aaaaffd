"""Sources that are int8 already: what they compute in decides what can be made of them.

Where only the weights are stored in int8 and the arithmetic is float, the weights given back are
the source's own, and what is made of them is compared with it. Where activations are rounded as
well, a float model computes something else: such a file ships as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import PRECISION, SAID, read_notes
from crosscast.targets.families import onnx_weights
from crosscast.targets.families.onnx import (
    carry,
    graphs,
    load,
    refuse_attributes,
    save,
)
from crosscast.targets.families.onnx_held import STORED

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

GIVEN_BACK = "DequantizeLinear"
INTEGER = {"DynamicQuantizeLinear", *STORED} - {GIVEN_BACK}
"""Operators that round activations, or keep numbers in a form that is not given back here."""

EVALUATED = 21
"""An opset that ONNX itself evaluates GIVEN_BACK of; earlier ones mean the same."""


def refuse_quantized(tree: Path, *, target: str) -> None:
    """Raise StageError where a tree's source has no float weights that could be given back."""
    held = read_notes(tree).get(PRECISION)
    if held in ("int8", "int4") and _computes_in_integers(load(tree)):
        raise StageError(
            f"{target}: the source computes in {held}: in float it would be another model",
            fix="use the target onnx, which ships it as it is",
        )
    refuse_attributes(tree, target)


def shipped_as_it_is(tree: Path, out: Path) -> bool:
    """Copy the model of a tree whose source computes in int8 already, and say so."""
    if read_notes(tree).get(PRECISION) != "int8" or not _computes_in_integers(load(tree)):
        return False
    save(load(tree), out)
    carry(tree, out, **{SAID: "the source is int8 already, and ships as it is"})
    return True


def with_floats(model: ModelProto) -> ModelProto:
    """The model with the weights that it stores in integers given back in float32, in place."""
    for graph in graphs(model.graph):
        held = {tensor.name: tensor for tensor in graph.initializer}
        outputs = {value.name for value in graph.output}
        kept = []
        for node in graph.node:
            constant = node.op_type == GIVEN_BACK and all(name in held for name in node.input)
            if constant and node.output[0] not in outputs:
                graph.initializer.append(_given_back(node, held))
            else:
                kept.append(node)
        if len(kept) < len(graph.node):
            onnx_weights.replace_nodes(graph, kept)
            onnx_weights.drop_unread(graph)
    return model


def _computes_in_integers(model: ModelProto) -> bool:
    every = (node for graph in graphs(model.graph) for node in graph.node)
    return any(node.op_type in INTEGER for node in every)


def _given_back(node: NodeProto, held: dict[str, TensorProto]) -> TensorProto:
    import onnx
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    result = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
    tensors = [held[name] for name in dict.fromkeys(node.input)]
    graph = helper.make_graph([node], "weight", [], [result], tensors)
    alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", EVALUATED)])
    return numpy_helper.from_array(ReferenceEvaluator(alone).run(None, {})[0], node.output[0])
