"""ONNX as it was before opset 7, in the words of opset 7.

Those opsets gave operators `consumed_inputs` and `is_test`, and let arithmetic broadcast from an
axis that it named. ONNX's own converter knows little of them, and ONNX Runtime runs few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.onnx import opset
from crosscast.targets.families.onnx_nodes import Spelling, drop_attribute

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

LEGACY_END = 7
"""The first opset that broadcasts as numpy does."""

BROADCASTING = (
    "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less",
)  # fmt: skip
DROPPED = ("consumed_inputs", "is_test", "output_sequence")
"""Attributes that said how a framework ran the operator, not what it gives."""

SELU = {"alpha": 1.6732, "gamma": 1.0507}
SELU_END = 6
"""The opset from which on Selu's defaults have more digits."""


def modernised(model: ModelProto) -> None:
    """Bring the model, of an opset below 7, to opset 7, in place.

    Raises StageError for a node that cannot be told apart from another meaning.
    """
    adapters = dict(ADAPTERS)
    if opset(model) >= SELU_END:
        del adapters["Selu"]
    _rewrite(model.graph, {}, adapters)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = LEGACY_END


def _rewrite(
    graph: GraphProto, outer: Mapping[str, Any], adapters: Mapping[str, Callable[..., Any]]
) -> None:
    types = dict(outer) | _declared(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    for number, node in enumerate(graph.node):
        spell = Spelling(node, number)
        _plain(node)
        for entry in node.attribute:
            for inner in (*entry.graphs, *([entry.g] if entry.HasField("g") else [])):
                _rewrite(inner, types, adapters)
        adapt = adapters.get(node.op_type)
        kept = adapt is None or adapt(node, spell, types, constants) is not False
        for made in [*spell.nodes, *([node] if kept else [])]:
            nodes.append(type(node)())
            nodes[-1].CopyFrom(made)
            types |= _inferred(made, types, constants)
            constants |= _constant(made)
    del graph.node[:]
    graph.node.extend(nodes)


def _plain(node: NodeProto) -> None:
    if node.op_type == "BatchNormalization" and len(node.output) > 1:
        # The schema tells the two modes apart by their outputs.
        raise _unclear(node, "it is in training mode")
    for name in DROPPED:
        drop_attribute(node, name)


def _broadcast(
    node: NodeProto, spell: Spelling, types: Mapping[str, Any], constants: Mapping[str, Any]
) -> None:
    """Axes after those that `axis` aligns become ones of size 1."""
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), None)
    for name in ("axis", "broadcast"):
        drop_attribute(node, name)
    if axis is None:
        return
    ranks = [_rank(name, types, constants) for name in node.input]
    if ranks[0] is None or ranks[1] is None:
        raise _unclear(node, "the shapes that it broadcasts are not known")
    start = axis + ranks[0] if axis < 0 else axis
    _lengthen(node, spell, ranks[1], ranks[0] - start - ranks[1])


def _prelu(
    node: NodeProto, spell: Spelling, types: Mapping[str, Any], constants: Mapping[str, Any]
) -> None:
    """A slope for each channel lies along the second axis."""
    ranks = [_rank(name, types, constants) for name in node.input]
    if ranks[1] == 1 and _size(node.input[1], constants) != 1:
        if ranks[0] is None:
            raise _unclear(node, "the shape of its input is not known")
        _lengthen(node, spell, 1, ranks[0] - 2)


def _lengthen(node: NodeProto, spell: Spelling, rank: int, ones: int) -> None:
    if ones > 0:
        axes = list(range(rank, rank + ones))
        node.input[1] = spell("Unsqueeze", [node.input[1]], axes=axes)


def _gemm(node: NodeProto, *_: Any) -> None:
    drop_attribute(node, "broadcast")


def _cast(node: NodeProto, *_: Any) -> None:
    """The type was given by its name."""
    import onnx

    for entry in node.attribute:
        if entry.name == "to" and entry.type == entry.STRING:
            entry.CopyFrom(
                onnx.helper.make_attribute("to", onnx.TensorProto.DataType.Value(entry.s.decode()))
            )


def _concat(node: NodeProto, *_: Any) -> None:
    _default(node, "axis", 1)


def _selu(node: NodeProto, *_: Any) -> None:
    for name, value in SELU.items():
        _default(node, name, value)


def _pool(node: NodeProto, *_: Any) -> None:
    """The norm was a float."""
    from onnx import helper

    for entry in node.attribute:
        if entry.name == "p" and entry.type == entry.FLOAT:
            entry.CopyFrom(helper.make_attribute("p", int(entry.f)))


def _pad(node: NodeProto, *_: Any) -> None:
    for entry in node.attribute:
        entry.name = {"paddings": "pads"}.get(entry.name, entry.name)


def _reshape(node: NodeProto, spell: Spelling, *_: Any) -> None:
    shape = next((list(entry.ints) for entry in node.attribute if entry.name == "shape"), None)
    if shape is not None:
        drop_attribute(node, "shape")
        node.input.append(spell.constant(shape))


def _split(
    node: NodeProto,
    spell: Spelling,  # noqa: ARG001
    types: Mapping[str, Any],  # noqa: ARG001
    constants: Mapping[str, Any],
) -> None:
    """Sizes were an input."""
    from onnx import helper, numpy_helper

    if len(node.input) > 1:
        if node.input[1] not in constants:
            raise _unclear(node, "its sizes are computed")
        sizes = numpy_helper.to_array(constants[node.input[1]])
        node.attribute.append(helper.make_attribute("split", [int(size) for size in sizes]))
        del node.input[1:]


def _tile(
    node: NodeProto, spell: Spelling, types: Mapping[str, Any], constants: Mapping[str, Any]
) -> None:
    """One axis was repeated at a time."""
    from onnx import numpy_helper

    if len(node.input) < 3:
        return
    rank = _rank(node.input[0], types, constants)
    if rank is None or not set(node.input[1:]) <= set(constants):
        raise _unclear(node, "its repeats are computed")
    times, axis = (
        int(numpy_helper.to_array(constants[name]).reshape(-1)[0]) for name in node.input[1:]
    )
    repeats = [1] * rank
    repeats[axis] = times
    del node.input[1:]
    node.input.append(spell.constant(repeats))


def _upsample(node: NodeProto, *_: Any) -> None:
    from onnx import helper

    given = {entry.name: entry.f for entry in node.attribute}
    if "height_scale" in given:
        scales = [1.0, 1.0, given["height_scale"], given["width_scale"]]
        for name in ("height_scale", "width_scale"):
            drop_attribute(node, name)
        node.attribute.append(helper.make_attribute("scales", scales))


ADAPTERS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(BROADCASTING, _broadcast),
    "PRelu": _prelu,
    "Gemm": _gemm,
    "Cast": _cast,
    "Concat": _concat,
    "Selu": _selu,
    "LpPool": _pool,
    "GlobalLpPool": _pool,
    "Pad": _pad,
    "Reshape": _reshape,
    "Split": _split,
    "Tile": _tile,
    "Upsample": _upsample,
}


def _default(node: NodeProto, name: str, value: Any) -> None:
    """State an attribute whose default is another one today."""
    from onnx import helper

    if not any(entry.name == name for entry in node.attribute):
        node.attribute.append(helper.make_attribute(name, value))


def _declared(graph: GraphProto) -> dict[str, Any]:
    return {value.name: value.type for value in (*graph.input, *graph.value_info)}


def _inferred(
    node: NodeProto, types: Mapping[str, Any], constants: Mapping[str, Any]
) -> dict[str, Any]:
    """The types of what a node of opset 7 gives, as far as they can be told."""
    import onnx

    known = dict(types) | {name: _type(tensor) for name, tensor in constants.items()}
    try:
        schema = onnx.defs.get_schema(node.op_type, LEGACY_END, node.domain)
        return dict(
            onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: known[name] for name in node.input if name in known},
                {name: constants[name] for name in node.input if name in constants},
                opset_imports=[onnx.helper.make_opsetid("", LEGACY_END)],
            )
        )
    except Exception:  # noqa: BLE001 - what it cannot tell is not known, which is no failure
        return {}


def _type(tensor: Any) -> Any:
    from onnx import helper

    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _constant(node: NodeProto) -> dict[str, Any]:
    values = [entry.t for entry in node.attribute if entry.name == "value"]
    return {node.output[0]: values[0]} if node.op_type == "Constant" and values else {}


def _rank(name: str, types: Mapping[str, Any], constants: Mapping[str, Any]) -> int | None:
    if name in constants:
        return len(constants[name].dims)
    kind = types.get(name)
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    return len(kind.tensor_type.shape.dim)


def _size(name: str, constants: Mapping[str, Any]) -> int | None:
    return prod(constants[name].dims) if name in constants else None


def _unclear(node: NodeProto, why: str) -> StageError:
    layer = node.name or node.output[0]
    return StageError(
        f"operator {node.op_type} (layer {layer}) of an opset below {LEGACY_END} cannot be read: "
        f"{why}",
        fix="export the model again with a newer opset",
    )
