"""fp32 ONNX to int8: static quantization with QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import ADVICE, Options, read_notes
from crosscast.targets.families import onnx_pairs as pairs
from crosscast.targets.families import onnx_runtime, onnx_weights
from crosscast.targets.families.onnx import (
    OPSET_ASKED,
    carry,
    check,
    graphs,
    interface,
    load,
    opset,
    save,
    with_types,
)
from crosscast.targets.families.onnx_audit import refuse_unless
from crosscast.targets.families.onnx_bias import Rounding
from crosscast.targets.families.onnx_calibrate import Measured, Samples, measured, sample_reader
from crosscast.targets.families.onnx_pairs import COMPUTING, PRODUCTS
from crosscast.targets.families.onnx_sensitivity import (
    Costs,
    Trial,
    bytes_of,
    gated_activations,
    size_of,
    told,
)
from crosscast.targets.families.onnx_stored import refuse_quantized, shipped_as_it_is, with_floats
from crosscast.targets.families.onnx_upgrade import upgraded
from crosscast.targets.families.repair import RepairOptions
from crosscast.targets.families.search import Found, Kept, Search
from crosscast.targets.families.sensitivity import half, limits_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from crosscast.pipeline.parity.tolerance import Tolerance

PER_CHANNEL_OPSET = 13
QDQ_OPSET = 10

CONNECTING = (
    *("Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "Pad", "Resize"),
)
"""Operators that pass on what is int8 already, or put such values together."""

WEIGHTS_ONLY = ("Gather", "LSTM", "GRU", "RNN", "Tile", "Expand")
"""Operators whose weights are int8, and which compute in float."""

OPERATORS = (*COMPUTING, *CONNECTING, *WEIGHTS_ONLY)
"""What is quantized by default: what computes with weights, and what lies between such operators.

Sums, products, softmax, normalisations and activation functions keep float: they gain nothing
from int8, and what they lose adds up (worst sample, all operators of ONNX Runtime's quantizer
against these: MiniLM 3 and 21 dB, ViT 17 and 25 dB, GPT-2 26 and 32 dB, EfficientNet-Lite0 20.7
and 21.0 dB). So do products of two activations, as in attention.
"""


class StaticOptions(Options):
    """Options of static int8 quantization."""

    mode: Literal["static"] = Field(
        default="static", description="Ranges of activations are measured on calibration samples."
    )
    per_channel: bool = Field(
        default=True, description="A scale for each channel of a weight instead of one for all."
    )
    method: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description="How measured values become a range: all of them, 99.999 % of them, or the "
        "range whose distribution int8 keeps best. The latter two read the samples twice.",
    )
    activation: Literal["uint8", "int8"] = Field(
        default="uint8",
        description="Type of activations: uint8 is quickest on x86, int8 on ARM.",
    )
    reduce_range: bool = Field(
        default=False,
        description="Weights in 7 bits, for x86 processors without VNNI, where 8 bits overflow.",
    )
    operators: tuple[str, ...] | Literal["all"] | None = Field(
        default=None,
        description="Operator types that are quantized; default those that compute with weights "
        "(convolutions, matrix products, recurrent layers, embeddings) and those that pass on "
        "what is int8 already. Sums, softmax, normalisations and activation functions stay in "
        "float unless they are named here; all: each that can be quantized, products of two "
        "activations too.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Names of nodes, or operator types, that stay in float."
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _dynamic_is_elsewhere(cls, value: object) -> object:
        if value == "dynamic":
            raise PydanticCustomError(
                "value_error", "dynamic int8 is the target onnx-int8-dynamic; it needs no 'mode'"
            )
        return value


class Asked(StaticOptions, RepairOptions):
    """All that `quantize` is told."""


def quantize(
    *,
    model: Path,
    options: Mapping[str, Any],
    samples: Path | None,
    out: Path,
    parity: Mapping[str, Any] | None = None,
) -> None:
    """Write the quantized model, checked; its inputs and outputs keep their dtypes.

    parity: the target's own limits, which what stays in float is chosen by. It is chosen on the
    calibration samples alone: the parity samples would judge what was fitted to them.
    """
    chosen = Asked.model_validate(options)
    if samples is None:
        raise StageError(
            "onnx-int8: static quantization needs calibration samples",
            fix="set 'samples.calibration' in the config",
        )
    if shipped_as_it_is(model, out):
        return
    refuse_quantized(model, target="onnx-int8")
    asked = OPSET_ASKED in read_notes(model)

    def source() -> ModelProto:
        made = _raised(with_floats(load(model)), chosen, asked=asked)
        onnx_weights.prepare(made)
        return made

    signature = interface(load(model))
    names = {tensor.name for tensor in signature[0]}
    work = _Static(source, sample_reader(samples=samples, names=names), chosen)
    result, found = work.all_in_int8(), None
    if chosen.on_mismatch == "keep-float":
        result, found = work.searched(limits_of(parity or {}))
    if interface(result) != signature:
        raise StageError("onnx-int8: quantization changed the model's inputs or outputs")
    save(result, out)
    check(out, "the quantized model")
    refuse_unless(onnx_runtime.precision(artifact=out), "int8", target="onnx-int8")
    carry(model, out, **(work.told(found, bytes_of(model), bytes_of(out)) if found else FAILS))


def _raised(model: ModelProto, chosen: StaticOptions, *, asked: bool) -> ModelProto:
    """The model at an opset that can be quantized, unless the config asks for a lower one."""
    found, needed = opset(model), PER_CHANNEL_OPSET if chosen.per_channel else QDQ_OPSET
    if found < needed and asked:
        what = "per-channel scales need" if chosen.per_channel else "quantization needs"
        raise StageError(
            f"onnx-int8: {what} opset {needed} or later; the model has {found}",
            fix=f"set 'opset: {needed}' or a later one"
            + (", or 'quantize: {per_channel: false}'" if found >= QDQ_OPSET else ""),
        )
    return upgraded(model, needed) if found < needed else model


class _Static:
    """A model on its way to int8: `typed`, whose weights are rounded, and the ranges `found`.

    make: gives the float model, each time anew.
    """

    def __init__(
        self, make: Callable[[], ModelProto], samples: Samples, chosen: StaticOptions
    ) -> None:
        self._make, self._samples, self._chosen = make, samples, chosen
        source = make()
        self._excluded = set(excluded_nodes(source, chosen.exclude, target="onnx-int8"))
        self._operators = _operators(chosen)
        on_steps = chosen.per_channel and not chosen.reduce_range
        if on_steps:
            onnx_weights.round_weights(source, self._wanted)
        every = chosen.operators == "all"
        self._nodes = {n.name for n in _computing(source, every=every) if self._wanted(n)}
        self.typed = with_types(pairs.isolated(source, self._nodes))
        self._floats = pairs.activations(self.typed, self._nodes)
        self.found = self._measured(samples)
        self.rounding = Rounding(
            make,
            self.typed,
            samples,
            wanted=self._wanted,
            per_channel=chosen.per_channel,
            compensates=on_steps,
        )

    def all_in_int8(self) -> ModelProto:
        """The model in which all that the options name is in int8."""
        return self.quantized(Kept(), True)

    def searched(self, limits: Tolerance) -> tuple[ModelProto, Found]:
        """The model within those limits, and what it keeps in float for it."""
        nodes = self.bearing(Kept())
        trial = Trial(self._make(), self._samples, limits)
        costs = Costs(
            trial,
            activations=pairs.activations(self.typed, nodes),
            gates=lambda parts: gated_activations(
                self._exact(), parts, self.found, self._chosen.activation
            ),
            weights=lambda: (self._make(), self.rounding.rounded),
        )
        return Search(
            quantized=self.quantized,
            room=trial.room,
            size=size_of,
            operators=lambda kept: len(self.bearing(kept)),
            candidates=costs.candidates,
            measured=costs.measured,
            hides=trial.hides,
            fragile=pairs.fragile(self.typed, nodes, self.found),
        ).found()

    def told(self, found: Found, in_float: int, delivered: int) -> dict[str, Any]:
        """The notes of what was found. in_float, delivered: bytes of the files."""
        every, names = self.bearing(Kept()), found.kept.names
        lost = every - self.bearing(found.kept)
        operators = {
            node.name: next(name for name in pairs.touched(node) if name in names)
            for node in self.typed.graph.node
            if node.name in lost
        }
        return told(
            found,
            operators=operators,
            total=len(every),
            weights=[name for name in onnx_weights.floats(self.typed.graph) if name in names],
            sizes={"float": in_float, "delivered": delivered},
        )

    def _exact(self) -> ModelProto:
        """`typed` with its weights as they were."""
        model = onnx_weights.copied(self.typed)
        onnx_weights.replace(model.graph, onnx_weights.arrays(self._make().graph))
        return model

    def bearing(self, kept: Kept) -> set[str]:
        """The names of the nodes whose activations are int8 where so much stays in float."""
        left = {name: one for name, one in self.found.items() if name not in kept.names}
        return {
            node.name
            for node in self.typed.graph.node
            if node.name in self._nodes
            and pairs.bears(node, left, self._floats)
            and kept.names.isdisjoint(node.input)
        }

    def quantized(self, kept: Kept, every: bool) -> ModelProto:
        """The model in int8, with the ranges of every sample or of half of them."""
        chosen, nodes = self._chosen, self.bearing(kept)
        model = onnx_weights.copied(self.typed)
        if kept.corrected:
            self.rounding.correct(model, kept.names)
        ranges = self.found if every else self._narrower
        result = pairs.with_pairs(model, nodes, ranges, chosen) if nodes else model
        onnx_weights.to_int8(
            result, wanted=self._wanted, per_channel=chosen.per_channel, spared=kept.names
        )
        pairs.without_copies(result)
        del result.graph.value_info[:]
        return result

    def _wanted(self, node: NodeProto) -> bool:
        return node.op_type in self._operators and node.name not in self._excluded

    def _measured(self, samples: Samples) -> dict[str, Measured]:
        return measured(self.typed, self._floats, samples=samples, method=self._chosen.method)

    @cached_property
    def _narrower(self) -> dict[str, Measured]:
        return self.found | self._measured(lambda: half(self._samples()))


FAILS = {ADVICE: "with `on_mismatch: keep-float` the operators that int8 costs most stay in float"}
"""The notes of a model that is all in int8, whatever that costs."""


def _operators(chosen: StaticOptions) -> Collection[str]:
    """The operator types to quantize; StageError for one that the quantizer does not know."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    if chosen.operators is None:
        return OPERATORS
    known = {*OPERATORS, *QDQRegistry, *QLinearOpsRegistry}
    if chosen.operators == "all":
        return known
    for name in chosen.operators:
        if name not in known:
            raise _unknown(name, known, "operators", "an operator that can be quantized")
    return chosen.operators


def excluded_nodes(model: ModelProto, exclude: tuple[str, ...], *, target: str) -> list[str]:
    """The names of the nodes that `exclude` means; StageError for what is not in the model."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    known = {node.name for node in nodes} | {node.op_type for node in nodes}
    for name in exclude:
        if name not in known:
            raise StageError(
                f"{target}: exclude: '{name}' is neither a node nor an operator of the model"
                + _alike(name, known),
                fix=f"its operators are {', '.join(sorted({node.op_type for node in nodes}))}",
            )
    return [node.name for node in nodes if node.name in exclude or node.op_type in exclude]


def _unknown(name: str, known: Collection[str], key: str, what: str) -> StageError:
    return StageError(
        f"onnx-int8: {key}: '{name}' is not {what}{_alike(name, known)}",
        fix=f"choose from {', '.join(sorted(known))}",
    )


def _alike(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _computing(model: ModelProto, *, every: bool) -> Iterator[NodeProto]:
    """The nodes of the main graph whose activations can be int8.

    Unless it is every one, not those whose weights are computed, nor products with stacks of
    matrices.
    """
    weights = onnx_weights.floats(model.graph)
    for node in model.graph.node:
        if node.op_type in WEIGHTS_ONLY:
            continue
        if node.op_type in COMPUTING and not every:
            weight = weights.get(node.input[1])
            if weight is None or (node.op_type in PRODUCTS and len(weight.dims) != 2):
                continue
        yield node
