"""fp32 ONNX to int8: static quantization with QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

import difflib
import json
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.targets.base import Options
from crosscast.targets.families.onnx import (
    MODEL,
    carry,
    check,
    graphs,
    interface,
    load,
    opset,
    save,
)
from crosscast.targets.families.rounding import keep_sums

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PER_CHANNEL_OPSET = 13
OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
"""The axis of output channels in an operator's weights."""

KERNELS = ("Conv", "ConvTranspose")
"""Those whose weights end with the axes of a kernel."""

QDQ_OPSET = 10


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
        description="How measured values become a range; entropy and percentile keep all "
        "activations of all samples in memory.",
    )
    activation: Literal["uint8", "int8"] = Field(
        default="uint8",
        description="Type of activations: uint8 is quickest on x86, int8 on ARM.",
    )
    reduce_range: bool = Field(
        default=False,
        description="Weights in 7 bits, for x86 processors without VNNI, where 8 bits overflow.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Names of nodes, or operator types, that stay in float."
    )


class SampleReader:
    """The calibration samples of a tree, read one at a time."""

    def __init__(self, *, samples: Path, names: set[str]) -> None:
        cases = json.loads((samples / "cases.json").read_text(encoding="utf-8"))
        self._files = iter([samples / case["file"] for case in cases])
        self._names = names

    def get_next(self) -> Arrays | None:
        """The inputs of the next sample; None after the last."""
        from safetensors.numpy import load_file

        path = next(self._files, None)
        if path is None:
            return None
        return {name: value for name, value in load_file(path).items() if name in self._names}


def quantize(*, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path) -> None:
    """Write the quantized model, checked; its inputs and outputs keep their dtypes."""
    chosen = StaticOptions.model_validate(options)
    if samples is None:
        raise StageError(
            "onnx-int8: static quantization needs calibration samples",
            fix="set 'samples.calibration' in the config",
        )
    source = load(model)
    _check_opset(source, chosen)
    signature = interface(source)
    _prepare(source, chosen)
    names = {tensor.name for tensor in signature[0]}
    reader = SampleReader(samples=samples, names=names)
    result = _quantized(source, reader, chosen)
    if interface(result) != signature:
        raise StageError("onnx-int8: quantization changed the model's inputs or outputs")
    save(result, out)
    check(out, "the quantized model")
    carry(model, out)


def _check_opset(model: ModelProto, chosen: StaticOptions) -> None:
    found, needed = opset(model), PER_CHANNEL_OPSET if chosen.per_channel else QDQ_OPSET
    if found < needed:
        what = "per-channel scales need" if chosen.per_channel else "quantization needs"
        raise StageError(
            f"onnx-int8: {what} opset {needed} or later; the model has {found}",
            fix=f"set 'opset: {needed}' or a later one"
            + (", or 'quantize: {per_channel: false}'" if found >= QDQ_OPSET else ""),
        )


def _prepare(model: ModelProto, chosen: StaticOptions) -> None:
    """Bring the model into the form that the quantizer takes as it is meant."""
    # Exported shapes of intermediate tensors contradict those that the quantizer infers itself.
    del model.graph.value_info[:]
    _name_nodes(model)
    _split_weights(model)
    if chosen.per_channel and not chosen.reduce_range:
        _keep_sums(model, excluded=_excluded(model, chosen.exclude))


def _keep_sums(model: ModelProto, *, excluded: Collection[str]) -> None:
    """Round convolutions and matrix products so that the sums of their filters are kept."""
    import numpy as np
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in OUTPUT_AXIS or node.name in excluded:
            continue
        tensor = weights.pop(node.input[1], None)
        if tensor is None:
            continue
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and (values.ndim == 2 or node.op_type in KERNELS):
            kernel = int(np.prod(values.shape[2:]))
            rounded = keep_sums(values, axis=_output_axis(node), kernel=kernel)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def _output_axis(node: NodeProto) -> int:
    if any(entry.name == "transB" and entry.i for entry in node.attribute):
        return 0
    return OUTPUT_AXIS[node.op_type]


def _name_nodes(model: ModelProto) -> None:
    """Give nameless nodes a name: the quantizer takes two nodes of one name for the same."""
    seen: set[str] = {node.name for graph in graphs(model.graph) for node in graph.node}
    for graph in graphs(model.graph):
        for index, node in enumerate(graph.node):
            if not node.name:
                node.name = _free(f"{node.op_type}_{index}", seen)


def _split_weights(model: ModelProto) -> None:
    """Give each kind of reader of a weight a copy of its own.

    A scale per channel lies along the axis that the operator calls output channels: the columns
    of a MatMul are the rows of a transposing Gemm. The quantizer takes the axis of one reader for
    all, and what the others compute is wrong, silently (tied embeddings and heads).
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    names = set(weights)
    copies: dict[tuple[str, str], str] = {}
    first: dict[str, str] = {}
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        for index, name in enumerate(node.input):
            kind = _reader(node, index)
            if name not in weights or first.setdefault(name, kind) == kind:
                continue
            if (name, kind) not in copies:
                own = model.graph.initializer.add()
                own.CopyFrom(weights[name])
                own.name = copies[name, kind] = _free(f"{name}_of_{node.name}", names)
            node.input[index] = copies[name, kind]


def _reader(node: NodeProto, index: int) -> str:
    """What decides on which axis an operator wants the scales of a weight."""
    transposes = [str(entry.i) for entry in node.attribute if entry.name.startswith("trans")]
    return " ".join([node.op_type, str(index), *transposes])


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _quantized(model: ModelProto, reader: SampleReader, chosen: StaticOptions) -> ModelProto:
    import onnx
    from onnxruntime import quantization as ort

    excluded = _excluded(model, chosen.exclude)
    # The directory takes the quantizer's intermediate files as well.
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / MODEL
        try:
            ort.quantize_static(
                model,
                path,
                reader,
                quant_format=ort.QuantFormat.QDQ,
                per_channel=chosen.per_channel,
                reduce_range=chosen.reduce_range,
                activation_type=_types()[chosen.activation],
                weight_type=ort.QuantType.QInt8,
                nodes_to_exclude=excluded,
                use_external_data_format=True,
                calibrate_method=_methods()[chosen.method],
            )
        except Exception as error:
            raise StageError(
                f"onnx-int8: the model cannot be quantized: {error}",
                fix="keep the operator that is named out of it: 'quantize: {exclude: [...]}'",
            ) from error
        return onnx.load(path)


def _types() -> dict[str, Any]:
    from onnxruntime.quantization import QuantType

    return {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


def _methods() -> dict[str, Any]:
    from onnxruntime.quantization import CalibrationMethod

    return {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }


def _excluded(model: ModelProto, exclude: tuple[str, ...]) -> list[str]:
    """The names of the nodes that `exclude` means; StageError for what is not in the model."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    known = {node.name for node in nodes} | {node.op_type for node in nodes}
    for name in exclude:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            raise StageError(
                f"onnx-int8: exclude: '{name}' is neither a node nor an operator of the model"
                + (f"; did you mean '{close[0]}'?" if close else ""),
                fix=f"its operators are {', '.join(sorted({node.op_type for node in nodes}))}",
            )
    return [node.name for node in nodes if node.name in exclude or node.op_type in exclude]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice to pre-process, which has been done, out of the log."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
