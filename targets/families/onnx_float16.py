"""fp32 ONNX to fp16: weights and arithmetic in half precision.

Every float32 tensor becomes float16. An operator that by its definition takes no float16,
or is in FLOAT32, stays as it is between casts; where only some of its inputs are float32 by
definition (the scales of a Resize), only those are. Control flow is no special case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import SAID, read_notes
from crosscast.targets.families import onnx_weights, onnx_widen
from crosscast.targets.families.onnx import (
    OnnxOptions,
    carry,
    check,
    graphs,
    interface,
    load,
    save,
    with_types,
)
from crosscast.targets.families.onnx_stored import refuse_quantized, with_floats
from crosscast.targets.families.onnx_widen import Compute

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

LARGEST = 65504.0
"""The greatest finite fp16 value."""

FLOAT, FLOAT16 = 1, 10
"""ONNX's numbers of the element types."""

FEW, SOME = 256, 1024
"""Elements of a weight that an operator in float32 keeps as they are, FEW where it has to be
float32, SOME where fp16 was tried and lost too much: their bytes do not count, but each of them is
a factor of much (scalars, depthwise filters, squeezed channels)."""

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
    compute: Compute = Field(
        default="float16",
        description="What the operators compute in: float16, mixed (products and convolutions in "
        "float16, all else in float32) or float32 (the weights are float16).",
    )
    on_mismatch: Literal["keep-float", "fail"] = Field(
        default="keep-float",
        description="What is done where a trial shows outputs that are not near the source's. "
        "keep-float: the next of `compute` is taken. fail: nothing, which the gate judges.",
    )


def quantize(*, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path) -> None:
    """Write the model in fp16, checked; its inputs and outputs keep their dtypes, or are float16
    where the option io says so.

    Weights beyond the range of fp16 are set to its end, as masks of -3e38 want it, and named in
    the notes; whether the model bears that is for the parity gate to say. What has to compute in
    float32 for the outputs to be near does (`onnx_widen`), and the notes say so.
    samples: real ones to try that on, in the model's layout; None where there are none.
    """
    chosen = Float16Options.model_validate(options)
    refuse_quantized(model, target="onnx-fp16")
    source = with_floats(load(model))
    clamped = _beyond_range(source)
    signature = interface(source)
    try:
        typed = with_types(_inlined(source))
        staying, said = onnx_widen.choose(
            typed,
            tree=model,
            samples=samples,
            first=chosen.compute,
            is_last=chosen.on_mismatch == "fail",
            build=lambda names: _built(typed, keep_io=True, staying=names),
        )
        result = _built(typed, keep_io=chosen.io is None, staying=staying)
    except Exception as error:
        if isinstance(error, StageError):
            raise
        raise StageError(f"onnx-fp16: the model cannot be converted: {error}") from error
    if chosen.io is None and interface(result) != signature:
        raise StageError("onnx-fp16: the converter changed the model's inputs or outputs")
    save(result, out)
    check(out, "the fp16 model")
    held = {tensor.name for graph in graphs(result.graph) for tensor in graph.initializer}
    before = read_notes(model).get(SAID, "")
    notes = {
        "fp16_clamped": [name for name in clamped if name in held],
        SAID: "; ".join(filter(None, [before, said])),
    }
    carry(model, out, **{key: value for key, value in notes.items() if value})


def _built(typed: ModelProto, *, keep_io: bool, staying: AbstractSet[str]) -> ModelProto:
    copy = type(typed)()
    copy.CopyFrom(typed)
    return halved(copy, keep_io=keep_io, staying=staying)


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


def halved(
    model: ModelProto, *, keep_io: bool, staying: AbstractSet[str] = frozenset()
) -> ModelProto:
    """The model, whose types are inferred, with float16 for float32.

    keep_io: whether its inputs and outputs stay as they are.
    staying: results of operators that compute in float32 as those do that have no float16.
    """
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    taken = onnx_weights.names_of(model.graph)
    every = list(graphs(model.graph))
    wide = {name for graph in every for name in _wide(graph)}
    halving = _Halving(wide=wide, versions=versions, taken=taken, staying=staying)
    for graph in every[::-1]:  # inner graphs first: replacing nodes copies what is in them
        halving.halve(graph)
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _retype(value.type)
    if keep_io:
        halving.keep_io(model.graph)
    halving.leave_out_detours(model.graph)
    _name_casts(model)
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


class _Halving:
    """Brings graphs to float16, and knows what the casts that it made stand for.

    wide: names of the float32 tensors. versions: of the operators, by domain.
    taken: names of all tensors. staying: see `halved`.
    """

    def __init__(
        self,
        *,
        wide: set[str],
        versions: Mapping[str, int],
        taken: set[str],
        staying: AbstractSet[str],
    ) -> None:
        self._wide = wide
        self._versions = versions
        self._taken = taken
        self._staying = staying
        self._origins: dict[str, str] = {}
        """What was float32 before a cast made this float16 of it; empty where two casts did, in
        branches that use one name."""

    def halve(self, graph: GraphProto) -> None:
        """Bring a graph's weights and operators to float16, and put casts where one stays.

        Weights of those that stay are kept in float16, too, but for small ones: a Resize by 4/3
        in float16 gives another size.
        """
        weights, read = onnx_weights.floats(graph), onnx_weights.read_in(graph)
        spared: dict[str, str] = {}
        nodes: list[NodeProto] = []
        widened: dict[str, str] = {}
        for node in graph.node:
            kept, stays = self._kept_inputs(node, graph)
            for entry in () if stays else node.attribute:
                _halve_attribute(node, entry)
            least = FEW if self._staying.isdisjoint(node.output) else SOME
            for index in kept:
                name = node.input[index]
                if name in weights and prod(weights[name].dims) <= least:
                    if name not in spared:
                        spared[name] = self._beside(name)
                    node.input[index] = spared[name]
                elif name in self._wide:
                    if name not in widened:
                        widened[name] = self._beside(name)
                        nodes.append(_cast(name, widened[name], FLOAT))
                    node.input[index] = widened[name]
            nodes.append(node)
            for index, name in enumerate(node.output) if stays else ():
                if name in self._wide and name in read:
                    node.output[index] = widened[name] = self._beside(name)
                    nodes.append(self._halved(widened[name], name))
        onnx_weights.replace_nodes(graph, nodes)
        for name, tensor in weights.items():
            if name in spared:
                own = graph.initializer.add()
                own.CopyFrom(tensor)
                own.name = spared[name]
            _halve_tensor(tensor)
        self._leave_out_unread(graph)
        onnx_weights.drop_unread(graph)

    def keep_io(self, graph: GraphProto) -> None:
        """Put casts behind the float inputs and before the float outputs, which are float32."""
        weights = {tensor.name for tensor in graph.initializer}
        first, last = [], []
        for value in graph.input:
            mine = value.name in self._wide and value.name not in weights
            if mine and _element(value.type) == FLOAT16:
                inner = onnx_weights.free(f"{value.name}/float16", self._taken)
                onnx_weights.rename_input(graph, value.name, inner)
                first.append(self._halved(value.name, inner))
                value.type.tensor_type.elem_type = FLOAT
        sources = {node.output[0]: node.input[0] for node in first}
        for value in graph.output:
            if value.name not in self._wide:
                continue
            if value.name not in sources.values():
                inner = onnx_weights.free(f"{value.name}/float16", self._taken)
                onnx_weights.rename_tensor(graph, value.name, inner)
                if value.name in self._origins:
                    self._origins[inner] = self._origins.pop(value.name)
                last.append(_cast(inner, value.name, FLOAT))
            value.type.tensor_type.elem_type = FLOAT
        onnx_weights.replace_nodes(graph, [*first, *graph.node, *last])

    def leave_out_detours(self, graph: GraphProto) -> None:
        """Let what is float32 on both sides of two casts be read, and given, as it was."""
        fixed = {value.name for value in (*graph.input, *graph.output)}
        for inner in graphs(graph):
            given = {value.name for value in inner.output}
            gone = set()
            for node in inner.node:
                origin = self._origins.get(node.input[0], "") if _widens(node) else ""
                name = node.output[0]
                if not origin:
                    continue
                if name not in given:
                    onnx_weights.rename_input(inner, name, origin)
                elif inner is graph and origin not in fixed:
                    node.output[0] = onnx_weights.free(f"{name}/unread", self._taken)
                    onnx_weights.rename_tensor(graph, origin, name)
                    self._rename_origin(origin, name)
                    fixed.add(name)
                else:
                    continue
                gone.add(node.output[0])
            kept = [node for node in inner.node if gone.isdisjoint(node.output)]
            onnx_weights.replace_nodes(inner, kept)
            self._leave_out_unread(inner)

    def _rename_origin(self, old: str, new: str) -> None:
        for name, origin in self._origins.items():
            if origin == old:
                self._origins[name] = new

    def _leave_out_unread(self, graph: GraphProto) -> None:
        """Remove the casts to float16 that nothing reads."""
        unread = self._origins.keys() - onnx_weights.read_in(graph)
        kept = [node for node in graph.node if unread.isdisjoint(node.output)]
        onnx_weights.replace_nodes(graph, kept)

    def _halved(self, wide: str, name: str) -> NodeProto:
        self._origins[name] = "" if name in self._origins else wide
        return _cast(wide, name, FLOAT16)

    def _beside(self, name: str) -> str:
        return onnx_weights.free(f"{name}/float32", self._taken)

    def _kept_inputs(self, node: NodeProto, graph: GraphProto) -> tuple[list[int], bool]:
        """The inputs that stay in float32, and whether the operator stays as a whole."""
        everything = list(range(len(node.input)))
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            return [], False
        types = _parameters(node, self._versions)
        if types is None or node.op_type in FLOAT32 or not self._staying.isdisjoint(node.output):
            return everything, True
        if _crosses(node, graph):
            return [0], True
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


def _widens(node: NodeProto) -> bool:
    return node.op_type == "Cast" and bool(onnx_weights.attribute(node, "to", 0) == FLOAT)


def _cast(source: str, target: str, kind: int) -> NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], to=kind)


def _name_casts(model: ModelProto) -> None:
    """Give casts names of their own: runtimes refuse two operators of one name."""
    every = [node for graph in graphs(model.graph) for node in graph.node]
    names = {node.name for node in every}
    for node in every:
        if node.op_type == "Cast" and not node.name:
            # Exporters name an operator after its result, which the cast now gives.
            node.name = onnx_weights.free(f"{node.output[0]}/cast", names)
