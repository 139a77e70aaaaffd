"""fp32 ONNX to int8: static quantization with QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import Options
from crosscast.targets.families import onnx_runtime, onnx_weights
from crosscast.targets.families.onnx import (
    OPSET_ASKED,
    carry,
    check,
    graphs,
    interface,
    load,
    opset,
    read_notes,
    refuse_quantized,
    save,
    with_types,
)
from crosscast.targets.families.onnx_audit import refuse_unless
from crosscast.targets.families.onnx_calibrate import Measured, Samples, measured, sample_reader
from crosscast.targets.families.onnx_upgrade import upgraded

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PER_CHANNEL_OPSET = 13
QDQ_OPSET = 10

PRODUCTS = ("Gemm", "MatMul")
"""Matrix products: their results stay in float, which costs ONNX Runtime no kernel."""

COMPUTING = (*onnx_weights.KERNELS, *PRODUCTS)
"""Operators with weights that compute in int8."""

CONNECTING = (
    *("Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Split", "Slice", "Pad", "Resize"),
)
"""Operators that pass on what is int8 already, or put such values together."""

OPERATORS = (*COMPUTING, *CONNECTING, "Gather", "LSTM", "GRU", "RNN")
"""What is quantized by default: what computes with weights, and what lies between such operators.

Sums, products, softmax, normalisations and activation functions keep float: they gain nothing
from int8, and what they lose adds up (worst sample, all operators of ONNX Runtime's quantizer
against these: MiniLM 3 and 21 dB, ViT 17 and 25 dB, GPT-2 26 and 32 dB, EfficientNet-Lite0 20.7
and 21.0 dB). So do products of two activations, as in attention.
"""

FRAGILE_DB = 28.0
"""Signal-to-noise ratio in int8 below which what a matrix product reads stays in float, and only
its weights become int8: a few values so large that all others share a few levels. The worst
samples of MiniLM gain 4 dB by it; in networks without such outliers no tensor is below 34 dB."""


COPY = "/int8"
"""Ends the name of a copy that is read in int8."""


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
    operators: tuple[str, ...] | None = Field(
        default=None,
        description="Operator types that are quantized; default those that compute with weights "
        "(convolutions, matrix products, recurrent layers, embeddings) and those that pass on "
        "what is int8 already. Sums, softmax, normalisations and activation functions stay in "
        "float unless they are named here.",
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


def quantize(*, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path) -> None:
    """Write the quantized model, checked; its inputs and outputs keep their dtypes."""
    chosen = StaticOptions.model_validate(options)
    if samples is None:
        raise StageError(
            "onnx-int8: static quantization needs calibration samples",
            fix="set 'samples.calibration' in the config",
        )
    refuse_quantized(model, target="onnx-int8")
    source = _raised(load(model), chosen, asked=OPSET_ASKED in read_notes(model))
    signature = interface(source)
    onnx_weights.prepare(source)
    names = {tensor.name for tensor in signature[0]}
    result = _quantized(source, sample_reader(samples=samples, names=names), chosen)
    if interface(result) != signature:
        raise StageError("onnx-int8: quantization changed the model's inputs or outputs")
    save(result, out)
    check(out, "the quantized model")
    refuse_unless(onnx_runtime.precision(artifact=out), "int8", target="onnx-int8")
    carry(model, out)


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


def _quantized(source: ModelProto, samples: Samples, chosen: StaticOptions) -> ModelProto:
    excluded = set(excluded_nodes(source, chosen.exclude, target="onnx-int8"))
    operators = _operators(chosen)

    def wanted(node: NodeProto) -> bool:
        return node.op_type in operators and node.name not in excluded

    if chosen.per_channel and not chosen.reduce_range:
        onnx_weights.round_weights(source, wanted)
    nodes = {node.name for node in _computing(source) if wanted(node)}
    typed = with_types(_isolated(source, nodes))
    activations = _activations(typed, nodes)
    found = measured(typed, activations, samples=samples, method=chosen.method)
    nodes = {
        node.name
        for node in typed.graph.node
        if node.name in nodes and _bears(node, found, activations)
    }
    result = _with_pairs(typed, nodes, found, chosen) if nodes else typed
    onnx_weights.to_int8(result, wanted=wanted, per_channel=chosen.per_channel)
    _without_copies(result)
    del result.graph.value_info[:]
    return result


def _operators(chosen: StaticOptions) -> Collection[str]:
    """The operator types to quantize; StageError for one that the quantizer does not know."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    if chosen.operators is None:
        return OPERATORS
    known = {*OPERATORS, *QDQRegistry, *QLinearOpsRegistry}
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


def _computing(model: ModelProto) -> Iterator[NodeProto]:
    """The nodes of the main graph whose activations can be int8.

    Not those whose weights are computed, nor products with stacks of matrices.
    """
    weights = onnx_weights.floats(model.graph)
    for node in model.graph.node:
        if node.op_type in ("Gather", "LSTM", "GRU", "RNN"):
            continue
        if node.op_type in COMPUTING:
            weight = weights.get(node.input[1])
            if weight is None or (node.op_type in PRODUCTS and len(weight.dims) != 2):
                continue
        yield node


def _isolated(model: ModelProto, nodes: Collection[str]) -> ModelProto:
    """Give the nodes that compute copies of what others read in float as well.

    Otherwise those others, such as residual sums, would read rounded values, too.
    """
    import onnx

    taken = onnx_weights.names_of(model.graph)
    in_float = {value.name for value in model.graph.output}
    for graph in graphs(model.graph):
        for node in graph.node:
            if graph is not model.graph or node.name not in nodes:
                in_float.update(node.input)
    copies: dict[str, str] = {}
    for node in model.graph.node:
        if node.name in nodes and node.op_type in COMPUTING and node.input[0] in in_float:
            source = node.input[0]
            if source not in copies:
                copies[source] = onnx_weights.free(f"{source}{COPY}", taken)
            node.input[0] = copies[source]
    made = {
        source: onnx.helper.make_node("Identity", [source], [copy], copy)
        for source, copy in copies.items()
    }
    ordered = [made[value.name] for value in model.graph.input if value.name in made]
    for node in model.graph.node:
        ordered.append(node)
        ordered.extend(made[name] for name in node.output if name in made)
    onnx_weights.replace_nodes(model.graph, ordered)
    return model


def _without_copies(model: ModelProto) -> None:
    """Let the readers of the copies read their sources again."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Identity" and COPY in node.output[0]:
            onnx_weights.rename_input(model.graph, node.output[0], node.input[0])
        else:
            kept.append(node)
    onnx_weights.replace_nodes(model.graph, kept)


def _activations(model: ModelProto, nodes: Collection[str]) -> list[str]:
    """The float tensors that the nodes read and write, weights left out."""
    import onnx

    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {
        name: None
        for node in model.graph.node
        if node.name in nodes
        for name in (*node.input, *node.output)
        if kinds.get(name) == onnx.TensorProto.FLOAT and name not in weights
    }
    return list(found)


def _bears(node: NodeProto, found: Mapping[str, Measured], floats: Collection[str]) -> bool:
    """Whether int8 can hold what a node reads and writes."""
    if any(name in floats and name not in found for name in (*node.input, *node.output)):
        return False
    source = found.get(node.input[0])
    return node.op_type not in COMPUTING or (source is not None and source.snr_db >= FRAGILE_DB)


def _with_pairs(
    model: ModelProto, nodes: Collection[str], found: Mapping[str, Measured], chosen: StaticOptions
) -> ModelProto:
    """The model with pairs of QuantizeLinear and DequantizeLinear around the nodes."""
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    # numpy's own scalars: the quantizer asks for their dtype.
    ends = {name: (np.float32(one.low), np.float32(one.high)) for name, one in found.items()}
    metadata = list(model.metadata_props)
    add_infer_metadata(model)
    try:
        with quiet():
            quantizer = QDQQuantizer(
                model,
                chosen.per_channel,
                chosen.reduce_range,
                QuantType.QInt8,
                types[chosen.activation],
                TensorsData(CalibrationMethod.MinMax, ends),
                sorted(nodes),
                [],
                sorted({node.op_type for node in model.graph.node}),
                {"OpTypesToExcludeOutputQuantization": list(PRODUCTS)},
            )
            result: ModelProto = quantizer.quantize_model()
            quantizer.model.topological_sort()
    except Exception as error:
        raise StageError(
            f"onnx-int8: the model cannot be quantized: {error}",
            fix="keep the operator that is named out of it: 'quantize: {exclude: [...]}'",
        ) from error
    del result.metadata_props[:]
    result.metadata_props.extend(metadata)
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the quantizer's advice to pre-process, which has been done, out of the log."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
