"""An ONNX model brought to another opset, with its meaning kept.

ONNX's own converter does most of it. What it lacks, or gets wrong without a word, is done here:
opsets below 7 (`onnx_legacy`), Resize as it was before opset 11, Hardmax over several axes before
13, and batch normalization with statistics for each element.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import onnx as family
from crosscast.targets.families.onnx_legacy import LEGACY_END, modernised
from crosscast.targets.families.onnx_nodes import Spelling, drop_attribute, integer, replace_nodes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

RESIZE_END = 11
"""The opset from which on Resize says how it samples; before, it was always the same way."""

COERCED_END = 13
"""The opset from which on Softmax and its kin work on one axis, not on all from it on."""

INITIALIZERS_APART = 4
"""The IR version from which on a weight need not be an input as well; the converter adds some."""


def upgraded(model: ModelProto, wanted: int) -> ModelProto:
    """The model at opset `wanted`, higher or lower than its own; itself where that is its own.

    Raises StageError where an operator has no form in that opset; it is named.
    """
    found = family.opset(model)
    if found == wanted:
        return model
    result = _copy(model)
    if found < LEGACY_END <= wanted:
        modernised(result)
    replace_nodes(result, _adapters(family.opset(result), wanted))
    result = _converted(result, found, wanted)
    if found < RESIZE_END <= wanted:
        _say_how_resizes_sample(result)
    if family.opset(result) != wanted or _ports(result) != _ports(model):
        raise _impossible(found, wanted, "the converter changed its inputs or outputs")
    for value, declared in zip(result.graph.output, model.graph.output, strict=True):
        value.CopyFrom(declared)  # without the shape that the converter has inferred
    return result


def _ports(model: ModelProto) -> list[tuple[str, int]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return [
        (value.name, value.type.tensor_type.elem_type) for value in (*inputs, *model.graph.output)
    ]


def _copy(model: ModelProto) -> ModelProto:
    """A copy in the form that the converter takes."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, INITIALIZERS_APART)
    return copy


def _converted(model: ModelProto, found: int, wanted: int) -> ModelProto:
    import onnx

    if family.opset(model) == wanted:
        return model
    try:
        return onnx.version_converter.convert_version(model, wanted)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise _impossible(found, wanted, _reason(str(error))) from error


def _reason(said: str) -> str:
    """The converter's words, or what they mean."""
    named = re.search(r"No Adapter (?:From|To) Version \$(\d+) for (\w+)", said)
    if named:
        return f"operator {named[2]} of opset {named[1]} has no equivalent there"
    plain = re.search(r"(?:No Adapter For|No Previous Version of) (\w+)", said)
    return f"operator {plain[1]} has no equivalent there" if plain else said.strip()[-400:]


def _impossible(found: int, wanted: int, why: str) -> StageError:
    return StageError(
        f"the model has opset {found} and cannot be brought to opset {wanted}: {why}",
        fix=f"set 'opset: {found}' on ONNX targets, or export the model with opset {wanted}",
    )


def _adapters(found: int, wanted: int) -> Mapping[str, Callable[[NodeProto, Spelling], Any]]:
    """How the operators are spelled out that the converter does not carry over."""
    chosen: dict[str, Callable[[NodeProto, Spelling], Any]] = {}
    if found < COERCED_END <= wanted:
        chosen["Hardmax"] = _hardmax
    if found < 9 <= wanted:
        chosen["BatchNormalization"] = _batch_normalization
        chosen["Scan"] = _refuse
    return chosen


def _refuse(node: NodeProto, spell: Spelling) -> None:  # noqa: ARG001
    raise StageError(
        f"operator {node.op_type} (layer {node.name or node.output[0]}) of an opset below 9 has "
        "no equivalent in later ones",
        fix="export the model again with a newer opset",
    )


def _hardmax(node: NodeProto, spell: Spelling) -> None:
    """One hot over all axes from `axis` on: over the columns of the matrix that they flatten to."""
    axis = integer(node, "axis", 1)
    shape = spell("Shape", [node.input[0]])
    flat = spell("Flatten", [node.input[0]], axis=axis)
    hot = spell("Hardmax", [flat], axis=1)
    spell("Reshape", [hot, shape], output=node.output[0])


def _batch_normalization(node: NodeProto, spell: Spelling) -> bool | None:
    """With spatial=0 each element has statistics of its own: plain arithmetic."""
    if integer(node, "spatial", 1) or len(node.output) > 1:
        drop_attribute(node, "spatial")
        return False
    epsilon = next((entry.f for entry in node.attribute if entry.name == "epsilon"), 1e-5)
    data, scale, shift, mean, variance = node.input
    spread = spell("Sqrt", [spell("Add", [variance, spell.constant(epsilon)])])
    centred = spell("Div", [spell("Sub", [data, mean]), spread])
    spell("Add", [spell("Mul", [centred, scale]), shift], output=node.output[0])
    return None


def _say_how_resizes_sample(model: ModelProto) -> None:
    """Before opset 11 sizes are scaled from the corner, and the nearest element is the lower one;
    the converter leaves out to say so, and the default is another.
    """
    from onnx import helper

    for graph in family.graphs(model.graph):
        for node in graph.node:
            if node.op_type == "Resize":
                for name in ("coordinate_transformation_mode", "nearest_mode"):
                    drop_attribute(node, name)
                node.attribute.append(
                    helper.make_attribute("coordinate_transformation_mode", "asymmetric")
                )
                node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
