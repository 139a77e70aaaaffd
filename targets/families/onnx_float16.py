"""fp32 ONNX to fp16: weights and arithmetic in half precision.

Every float32 tensor becomes float16. An operator that by its definition takes no float16,
or is in FLOAT32, stays as it is between casts; where only some of its inputs are float32 by
definition (the scales of a Resize), only those are. Control flow is no special case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import onnx_weights
from crosscast.targets.families.onnx import (
    OnnxOptions,
    carry,
    check,
    graphs,
    interface,
    prepared,
    refuse_quantized,
    save,
    with_types,
)

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

LARGEST = 65504.0
"""The greatest finite fp16 value."""

FLOAT, FLOAT16 = 1, 10
"""ONNX's numbers of the element types."""

FLOAT32: Mapping[str, str] = {
    "CumSum": "a sum in half precision stands still at 2048 where ones are added",
    "GRU": "ONNX Runtime has no fp16 kernel for it",
    "LSTM": "ONNX Runtime has no fp16 kernel for it",
    "RNN": "ONNX Runtime has no fp16 kernel for it",
}
"""Operators that stay in float32 though their definition allows float16, and why."""

TYPED = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "Multinomial": "dtype",
    "Bernoulli": "dtype",
}
"""Operators whose attribute names the type of what they give."""


class Float16Options(OnnxOptions):
    """Options of the conversion to fp16."""

    io: Literal["float16"] | None = Field(
        default=None,
        description="Type of the artifact's float inputs and outputs; default float32, as the "
        "source has them.",
    )


def convert(*, model: Path, options: Mapping[str, Any], out: Path) -> None:
    """Write the model in fp16, checked; its inputs and outputs keep their dtypes, or are float16
    where the option io says so.

    Weights beyond the range of fp16 are set to its end, as masks of -3e38 want it, and named in
    the notes; whether the model bears that is for the parity gate to say.
    """
    chosen = Float16Options.model_validate(options)
    refuse_quantized(model, target="onnx-fp16")
    source = prepared(model, chosen.opset, chosen.ir_version)
    clamped = _beyond_range(source)
    signature = interface(source)
    try:
        result = halved(with_types(_inlined(source)), keep_io=chosen.io is None)
    except Exception as error:
        if isinstance(error, StageError):
            raise
        raise StageError(f"onnx-fp16: the model cannot be converted: {error}") from error
    if chosen.io is None and interface(result) != signature:
        raise StageError("onnx-fp16: the converter changed the model's inputs or outputs")
    save(result, out)
    check(out, "the fp16 model")
    carry(model, out, **({"fp16_clamped": clamped} if clamped else {}))


def _beyond_range(model: ModelProto) -> list[str]:
    """Names of the weights with finite values that fp16 does not have."""
    import numpy as np
    import onnx

    names = []
    for graph in graphs(model.graph):
        for name, tensor in onnx_weights.floats(graph).items():
            values = onnx.numpy_helper.to_array(tensor)
            if np.any(np.isfinite(values) & (np.abs(values) > LARGEST)):
                names.append(name)
    return names


def _inlined(model: ModelProto) -> ModelProto:
    """The model without functions of its own, which hide operators."""
    import onnx

    return onnx.inliner.inline_local_functions(model) if model.functions else model


def halved(model: ModelProto, *, keep_io: bool) -> ModelProto:
    """The model, whose types are inferred, with float16 for float32.

    keep_io: whether its inputs and outputs stay as they are.
    """
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    taken = onnx_weights.names_of(model.graph)
    every = list(graphs(model.graph))
    wide = {name for graph in every for name in _wide(graph)}
    for graph in every[::-1]:  # inner graphs first: replacing nodes copies what is in them
        _halve(graph, wide, versions, taken)
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _retype(value.type)
    if keep_io:
        _keep_io(model.graph, wide, taken)
    del model.graph.value_info[:]
    return model


def _wide(graph: GraphProto) -> Iterator[str]:
    """The names of a graph's float32 tensors."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _element(value.type) == FLOAT:
            yield value.name
    yield from onnx_weights.floats(graph)


def _element(kind: TypeProto) -> int:
    if kind.HasField("sequence_type"):
        return _element(kind.sequence_type.elem_type)
    return int(kind.tensor_type.elem_type)


def _retype(kind: TypeProto) -> None:
    if kind.HasField("sequence_type"):
        _retype(kind.sequence_type.elem_type)
    elif kind.tensor_type.elem_type == FLOAT:
        kind.tensor_type.elem_type = FLOAT16


def _halve(graph: GraphProto, wide: set[str], versions: Mapping[str, int], taken: set[str]) -> None:
    """Bring a graph's weights and operators to float16, and put casts where one stays.

    Weights of those that stay are kept in float16, too, but for small ones: a Resize by 4/3 in
    float16 gives another size.
    """
    weights, read = onnx_weights.floats(graph), onnx_weights.read_in(graph)
    spared: dict[str, str] = {}
    nodes: list[NodeProto] = []
    widened: dict[str, str] = {}
    resulting: set[str] = set()
    for node in graph.node:
        kept, stays = _kept_inputs(node, versions)
        if _crosses(node, graph):
            kept, stays = [0], True
        for entry in () if stays else node.attribute:
            _halve_attribute(node, entry)
        for index in kept:
            name = node.input[index]
            if name in weights and not onnx_weights.worth(weights[name]):
                spared.setdefault(name, onnx_weights.free(f"{name}/float32", taken))
                node.input[index] = spared[name]
            elif name in wide:
                if name not in widened:
                    widened[name] = onnx_weights.free(f"{name}/float32", taken)
                    nodes.append(_cast(name, widened[name], FLOAT))
                node.input[index] = widened[name]
        nodes.append(node)
        for index, name in enumerate(node.output) if stays else ():
            if name in wide and name in read:
                node.output[index] = onnx_weights.free(f"{name}/float32", taken)
                widened[name] = node.output[index]
                resulting.add(name)
                nodes.append(_cast(node.output[index], name, FLOAT16))
    onnx_weights.replace_nodes(graph, nodes)
    unread = resulting - onnx_weights.read_in(graph)
    onnx_weights.replace_nodes(
        graph, [node for node in graph.node if unread.isdisjoint(node.output)]
    )
    for name, tensor in weights.items():
        if name in spared:
            own = graph.initializer.add()
            own.CopyFrom(tensor)
            own.name = spared[name]
        _halve_tensor(tensor)
    onnx_weights.drop_unread(graph)


def _kept_inputs(node: NodeProto, versions: Mapping[str, int]) -> tuple[list[int], bool]:
    """The inputs that stay in float32, and whether the operator stays as a whole."""
    everything = list(range(len(node.input)))
    if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
        return [], False
    types = _parameters(node, versions)
    if types is None or node.op_type in FLOAT32:
        return everything, True
    fixed = [
        index
        for index, allowed in enumerate(types)
        if "tensor(float)" in allowed and "tensor(float16)" not in allowed
    ]
    if any(index >= len(node.input) for index in fixed):
        return everything, True
    return fixed, False


def _crosses(node: NodeProto, graph: GraphProto) -> bool:
    """Whether a transposition exchanges the rows of stacked matrices with the stack, for a product.

    ONNX Runtime 1.31 takes both for one fused product, and crashes on it in float16.
    """
    if node.op_type != "Transpose":
        return False
    order = onnx_weights.attribute(node, "perm", ())
    crossed = len(order) > 2 and order[-1] == len(order) - 1 and order[-2] != len(order) - 2
    readers = (reader for reader in graph.node if node.output[0] in reader.input)
    return crossed and any(reader.op_type == "MatMul" for reader in readers)


def _parameters(node: NodeProto, versions: Mapping[str, int]) -> list[set[str]] | None:
    """The types that each input and then each output may have; None for an unknown operator."""
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain or "ai.onnx", 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    constraints = {
        entry.type_param_str: set(entry.allowed_type_strs) for entry in schema.type_constraints
    }
    found = []
    for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, _ in enumerate(names):
            type_ = formal[min(index, len(formal) - 1)].type_str
            found.append(constraints.get(type_, {type_}))
    return found


def _halve_attribute(node: NodeProto, entry: AttributeProto) -> None:
    import onnx

    if entry.type == onnx.AttributeProto.TENSOR:
        _halve_tensor(entry.t)
    elif node.op_type == "Constant" and entry.name in ("value_float", "value_floats"):
        value = onnx.helper.get_attribute_value(entry)
        shape = [] if entry.name == "value_float" else [len(value)]
        tensor = onnx.helper.make_tensor("value", FLOAT, shape, [value] if not shape else value)
        _halve_tensor(tensor)
        entry.CopyFrom(onnx.helper.make_attribute("value", tensor))
    elif entry.name == TYPED.get(node.op_type) and entry.i == FLOAT:
        entry.i = FLOAT16


def _halve_tensor(tensor: TensorProto) -> None:
    import numpy as np
    from onnx import numpy_helper

    if tensor.data_type != FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    finite = np.isfinite(values)
    clamped = np.where(finite, np.clip(values, -LARGEST, LARGEST), values).astype(np.float16)
    # A divisor that was not 0 does not become it.
    least = np.copysign(np.finfo(np.float16).smallest_subnormal, values).astype(np.float16)
    tensor.CopyFrom(
        numpy_helper.from_array(
            np.where((clamped == 0) & (values != 0), least, clamped), tensor.name
        )
    )


def _keep_io(graph: GraphProto, wide: set[str], taken: set[str]) -> None:
    """Put casts behind the float inputs and before the float outputs, which then are float32."""
    weights = {tensor.name for tensor in graph.initializer}
    first, last = [], []
    for value in graph.input:
        if value.name in wide and value.name not in weights and _element(value.type) == FLOAT16:
            inner = onnx_weights.free(f"{value.name}/float16", taken)
            onnx_weights.rename_input(graph, value.name, inner)
            first.append(_cast(value.name, inner, FLOAT16))
            value.type.tensor_type.elem_type = FLOAT
    sources = {node.output[0]: node.input[0] for node in first}
    for value in graph.output:
        if value.name not in wide:
            continue
        if value.name not in sources.values():
            inner = onnx_weights.free(f"{value.name}/float16", taken)
            onnx_weights.rename_tensor(graph, value.name, inner)
            last.append(_cast(inner, value.name, FLOAT))
        value.type.tensor_type.elem_type = FLOAT
    onnx_weights.replace_nodes(graph, [*first, *graph.node, *last])


def _cast(source: str, target: str, kind: int) -> NodeProto:
    import onnx

    # Exporters name an operator after its result, which this one now gives.
    return onnx.helper.make_node("Cast", [source], [target], f"{target}/cast", to=kind)
