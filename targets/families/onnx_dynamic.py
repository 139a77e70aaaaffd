"""fp32 ONNX to dynamic int8: weights in int8, ranges of activations taken as they come.

Matrix products and LSTMs compute in int8. Whatever else has weights (convolutions, GRUs,
embeddings) stores them in int8 and computes in float: ONNX Runtime's integer convolution takes
no scales per channel, and is slower than its float one. So do products that narrow (as a
transformer's second feed-forward layer): what they read has few values so large that all others
share a few levels, and there may be no sample to tell by. MiniLM's worst sample gains 2.5 dB by it.
Where there are samples, they are what the result is tried on: what costs too much stays in float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import Options, read_notes
from crosscast.targets.families import onnx_runtime, onnx_weights
from crosscast.targets.families.onnx import (
    MODEL,
    OPSET_ASKED,
    carry,
    check,
    interface,
    load,
    opset,
    save,
)
from crosscast.targets.families.onnx_audit import refuse_unless
from crosscast.targets.families.onnx_bias import Rounding
from crosscast.targets.families.onnx_calibrate import Samples, measured, sample_reader
from crosscast.targets.families.onnx_int8 import excluded_nodes
from crosscast.targets.families.onnx_pairs import quiet
from crosscast.targets.families.onnx_sensitivity import (
    Costs,
    Trial,
    Watched,
    bytes_of,
    gated_activations,
    size_of,
    told,
)
from crosscast.targets.families.onnx_stored import refuse_quantized, shipped_as_it_is, with_floats
from crosscast.targets.families.onnx_upgrade import upgraded
from crosscast.targets.families.search import Found, Kept, Part, Search
from crosscast.targets.families.sensitivity import LEVELS

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LEAST_OPSET = 11
"""DynamicQuantizeLinear came with it."""

COMPUTING = ("MatMul", "LSTM", "Attention")
"""What computes in int8."""


class DynamicOptions(Options):
    """Options of dynamic int8 quantization."""

    per_channel: bool = Field(
        default=True, description="A scale for each channel of a weight instead of one for all."
    )
    reduce_range: bool = Field(
        default=False,
        description="Weights in 7 bits, for x86 processors without VNNI, where 8 bits overflow.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Names of nodes, or operator types, that stay in float."
    )


def quantize(*, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path) -> None:
    """Write the quantized model, checked; its inputs and outputs keep their dtypes.

    samples: what it is tried on, where there are any: what costs too much stays in float.
    Raises StageError where the model holds no weights that int8 could keep.
    """
    chosen = DynamicOptions.model_validate(options)
    if shipped_as_it_is(model, out):
        return
    refuse_quantized(model, target="onnx-int8-dynamic")
    asked = OPSET_ASKED in read_notes(model)
    signature = interface(load(model))
    excluded: set[str] = set()

    def source() -> ModelProto:
        made, names = _prepared(model, chosen, asked=asked)
        excluded.update(names)
        return made

    work = _Dynamic(source, excluded, chosen)
    result, found = work.quantized(Kept(), True), None
    if samples is not None:
        names = {tensor.name for tensor in signature[0]}
        result, found = work.searched(sample_reader(samples=samples, names=names))
    if interface(result) != signature:
        raise StageError("onnx-int8-dynamic: quantization changed the model's inputs or outputs")
    save(result, out)
    check(out, "the quantized model")
    refuse_unless(onnx_runtime.precision(artifact=out), "int8", target="onnx-int8-dynamic")
    carry(model, out, **(work.told(found, bytes_of(model), bytes_of(out)) if found else {}))


def _prepared(
    model: Path, chosen: DynamicOptions, *, asked: bool
) -> tuple[ModelProto, Collection[str]]:
    """The float model with its products in a form that can be quantized, and what is excluded."""
    source = with_floats(load(model))
    if opset(source) < LEAST_OPSET and not asked:
        source = upgraded(source, LEAST_OPSET)
    if opset(source) < LEAST_OPSET:
        raise StageError(
            f"onnx-int8-dynamic: needs opset {LEAST_OPSET} or later; the model has {opset(source)}",
            fix=f"set 'opset: {LEAST_OPSET}' or a later one",
        )
    onnx_weights.prepare(source)
    excluded = excluded_nodes(source, chosen.exclude, target="onnx-int8-dynamic")
    onnx_weights.split_gemms(source, lambda node: node.name not in excluded)
    return source, excluded


class _Dynamic:
    """A model on its way to int8, its weights rounded.

    make: gives the float model. excluded: names of nodes that stay in float.
    """

    def __init__(
        self, make: Callable[[], ModelProto], excluded: set[str], chosen: DynamicOptions
    ) -> None:
        self._make, self._excluded, self._chosen = make, excluded, chosen
        self._source = make()
        self._narrowing = set(_narrowing(self._source))
        self._on_steps = chosen.per_channel and not chosen.reduce_range
        if self._on_steps:
            onnx_weights.round_weights(self._source, self._wanted)
        self._rounding: Rounding | None = None

    def searched(self, samples: Samples) -> tuple[ModelProto, Found]:
        """The model, and what it keeps in float so as to keep its answers."""
        read = self._read()
        rounding = Rounding(
            self._make,
            self._source,
            samples,
            wanted=self._wanted,
            per_channel=self._chosen.per_channel,
            compensates=self._on_steps,
        )
        self._rounding = rounding

        def gates(groups: Sequence[Part]) -> tuple[ModelProto, list[Watched]]:
            found = measured(self._source, read, samples=samples, method="minmax")
            return gated_activations(self._source, groups, found, "uint8")

        trial = Trial(self._make(), samples)
        costs = Costs(
            trial,
            activations=read,
            gates=gates,
            weights=lambda: (self._make(), rounding.rounded),
        )
        return Search(
            quantized=self.quantized,
            room=trial.room,
            size=size_of,
            operators=lambda kept: sum(each not in kept.names for each in self._readers().values()),
            candidates=costs.candidates,
            measured=costs.measured,
            hides=True,  # there are no ranges, which half of the samples could be tried with
            ample=LEVELS[-1],
        ).found()

    def told(self, found: Found, in_float: int, delivered: int) -> dict[str, Any]:
        """The notes of what was found. in_float, delivered: bytes of the files."""
        readers, kept = self._readers(), found.kept.names
        return told(
            found,
            operators={name: tensor for name, tensor in readers.items() if tensor in kept},
            total=len(readers),
            weights=[name for name in onnx_weights.floats(self._source.graph) if name in kept],
            sizes={"float": in_float, "delivered": delivered},
        )

    def quantized(self, kept: Kept, every: bool) -> ModelProto:  # noqa: ARG002
        """The model in int8; it has no ranges that samples could be left out of."""
        model = onnx_weights.copied(self._source)
        if kept.corrected and self._rounding is not None:
            self._rounding.correct(model, kept.names)
        spared = {node.name for node in model.graph.node if not kept.names.isdisjoint(node.input)}
        result = _computed(model, self._excluded | self._narrowing | spared, self._chosen)
        onnx_weights.to_int8(
            result,
            wanted=self._wanted,
            per_channel=self._chosen.per_channel,
            spared=kept.names,
        )
        return result

    def _wanted(self, node: NodeProto) -> bool:
        return node.name not in self._excluded

    def _readers(self) -> dict[str, str]:
        """The nodes that compute in int8, and what they read."""
        read = set(self._read())
        return {
            node.name: node.input[0]
            for node in self._source.graph.node
            if node.op_type in COMPUTING and node.input[0] in read
        }

    def _read(self) -> list[str]:
        """What is rounded as it comes."""
        weights = onnx_weights.floats(self._source.graph)
        left_out = self._excluded | self._narrowing
        found = {
            node.input[0]: None
            for node in self._source.graph.node
            if node.op_type in COMPUTING
            and node.name not in left_out
            and node.input[1] in weights
            and node.input[0] not in weights
        }
        return list(found)


def _narrowing(model: ModelProto) -> Iterator[str]:
    """The names of the matrix products that give fewer columns than they read."""
    weights = onnx_weights.floats(model.graph)
    for node in model.graph.node:
        tensor = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if tensor is not None and tensor.dims[-2] > tensor.dims[-1]:
            yield node.name


def _computed(source: ModelProto, excluded: set[str], chosen: DynamicOptions) -> ModelProto:
    """The model with matrix products and LSTMs by constant weights in int8."""
    import onnx
    from onnxruntime import quantization as ort

    if not any(node.op_type in COMPUTING for node in source.graph.node):
        return source
    with tempfile.TemporaryDirectory() as scratch, quiet():
        path = Path(scratch) / MODEL
        try:
            ort.quantize_dynamic(
                source,
                path,
                op_types_to_quantize=list(COMPUTING),
                per_channel=chosen.per_channel,
                reduce_range=chosen.reduce_range,
                weight_type=ort.QuantType.QInt8,
                nodes_to_exclude=sorted(excluded),
                use_external_data_format=True,
                extra_options={"MatMulConstBOnly": True},
            )
        except Exception as error:
            raise StageError(
                f"onnx-int8-dynamic: the model cannot be quantized: {error}",
                fix="keep the operator that is named out of it: 'quantize: {exclude: [...]}'",
            ) from error
        return onnx.load(path)
