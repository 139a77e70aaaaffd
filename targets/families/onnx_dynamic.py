"""fp32 ONNX to dynamic int8: weights in int8, ranges of activations taken as they come.

Matrix products and LSTMs compute in int8. Whatever else has weights (convolutions, GRUs,
embeddings) stores them in int8 and computes in float: ONNX Runtime's integer convolution takes
no scales per channel, and is slower than its float one. So do products that narrow (as a
transformer's second feed-forward layer): what they read has few values so large that all others
share a few levels, and there is no sample to tell by. MiniLM's worst sample gains 2.5 dB by it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import Options
from crosscast.targets.families import onnx_runtime, onnx_weights
from crosscast.targets.families.onnx import (
    MODEL,
    OPSET_ASKED,
    carry,
    check,
    interface,
    load,
    opset,
    read_notes,
    refuse_quantized,
    save,
)
from crosscast.targets.families.onnx_audit import refuse_unless
from crosscast.targets.families.onnx_int8 import excluded_nodes, quiet
from crosscast.targets.families.onnx_upgrade import upgraded

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


def quantize(*, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path) -> None:  # noqa: ARG001
    """Write the quantized model, checked; its inputs and outputs keep their dtypes.

    Raises StageError where the model holds no weights that int8 could keep.
    """
    chosen = DynamicOptions.model_validate(options)
    refuse_quantized(model, target="onnx-int8-dynamic")
    source = load(model)
    if opset(source) < LEAST_OPSET and OPSET_ASKED not in read_notes(model):
        source = upgraded(source, LEAST_OPSET)
    if opset(source) < LEAST_OPSET:
        raise StageError(
            f"onnx-int8-dynamic: needs opset {LEAST_OPSET} or later; the model has {opset(source)}",
            fix=f"set 'opset: {LEAST_OPSET}' or a later one",
        )
    signature = interface(source)
    onnx_weights.prepare(source)
    excluded = set(excluded_nodes(source, chosen.exclude, target="onnx-int8-dynamic"))

    def wanted(node: NodeProto) -> bool:
        return node.name not in excluded

    onnx_weights.split_gemms(source, wanted)
    result = _computed(source, excluded | set(_narrowing(source)), chosen)
    onnx_weights.to_int8(result, wanted=wanted, per_channel=chosen.per_channel)
    if interface(result) != signature:
        raise StageError("onnx-int8-dynamic: quantization changed the model's inputs or outputs")
    save(result, out)
    check(out, "the quantized model")
    refuse_unless(onnx_runtime.precision(artifact=out), "int8", target="onnx-int8-dynamic")
    carry(model, out)


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
    if chosen.per_channel and not chosen.reduce_range:
        onnx_weights.round_weights(source, lambda _: True)
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
