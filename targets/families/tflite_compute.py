"""What the operators of a TFLite file compute in, by LiteRT's kernels, and the parameters of its
quantization, checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from crosscast.pipeline.parity.gains import Weight
from crosscast.targets.base import Computing, Delivered
from crosscast.targets.families import finite
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.parameters import Parameters

ARITHMETIC = frozenset(
    (
        "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE",
        "FULLY_CONNECTED", "BATCH_MATMUL", "SVDF", "LSTM", "RNN",
        "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN",
    )
)  # fmt: skip
"""The operators whose constants are a model's weights, for the audit."""

STORED: Mapping[str, Delivered] = {
    "float32": "fp32",
    "float16": "fp16",
    "int8": "int8",
    "uint8": "int8",
    "int4": "int4",
}
"""Precisions by the dtype of constants; the others are shapes, indices and biases."""

CALCULATING = frozenset(
    (
        "ADD", "SUB", "MUL", "DIV", "GATHER", "EMBEDDING_LOOKUP", "PRELU", "SQUARED_DIFFERENCE",
        "QUANTIZE",
    )
)  # fmt: skip
"""Operators that make another number of each that they read, or give it as it is; beside those that
sum products."""

FLOATS = ("float16", "float32", "float64")

LEVELS = ("int8", "uint8", "int16", "int32", "int64")
"""dtypes of tensors whose parameters stand for real numbers."""


def computing(made: Any) -> tuple[Computing, ...]:
    """The operators that compute, in the file's order."""
    return tuple(
        _computing(made, graph, operator, name, origins)
        for graph in made.subgraphs
        for origins in [_origins(made, graph)]
        for operator in graph.operators
        if (name := files.operator_name(made, operator)) in ARITHMETIC
    )


def weights(made: Any) -> Iterator[Weight]:
    """The real numbers that constants stand for."""
    for graph in made.subgraphs:
        for tensor in graph.tensors:
            values, dtype = files.data_of(made, tensor), files.numpy_name(tensor.type)
            if values is not None and dtype in FLOATS and tensor.sparsity is None:
                shape = files.signature_of(tensor)
                yield Weight(files.text(tensor.name), values.view(dtype).reshape(shape))
            elif (found := _parameters(made, tensor)) is not None and found.weight is not None:
                yield found.weight


def problems(made: Any) -> Iterator[str]:
    """What is wrong with the parameters of tensors, and with floats that are calculated with; one
    line each.
    """
    for graph in made.subgraphs:
        for tensor in graph.tensors:
            if (found := _parameters(made, tensor)) is not None:
                yield from found.problems()
        yield from filter(None, _not_finite(made, graph))


def _not_finite(made: Any, graph: Any) -> Iterator[str]:
    for index, readers in files.constants(made, graph).items():
        tensor = graph.tensors[index]
        dtype = files.numpy_name(tensor.type)
        is_plain = dtype in FLOATS and tensor.sparsity is None
        if is_plain and readers & (ARITHMETIC | CALCULATING):
            values = files.data_of(made, tensor).view(dtype).reshape(files.signature_of(tensor))
            is_summed = bool(readers & ARITHMETIC)
            yield finite.problem(files.text(tensor.name), values, is_summed=is_summed)


def _computing(
    made: Any, graph: Any, operator: Any, name: str, origins: Mapping[int, int]
) -> Computing:
    sizes = Counter[Delivered]()
    given = [int(index) for index in operator.inputs if index >= 0]
    for index in given:
        tensor = graph.tensors[origins.get(index, index)]
        data = files.data_of(made, tensor)
        precision = STORED.get(files.numpy_name(tensor.type))
        if data is not None and precision:
            sizes[precision] += data.size
    # A kernel that is given stored integers beside floats rounds these as they come.
    in_integers = any(_is_integer(graph.tensors[index]) for index in given)
    return Computing(
        name=files.text(graph.tensors[operator.outputs[0]].name),
        operator=name,
        arithmetic="int8" if in_integers else "fp32",
        stored=sizes.most_common(1)[0][0] if sizes else None,
        size=sizes.total(),
    )


def _is_integer(tensor: Any) -> bool:
    """Whether a tensor has stored numbers or quantized activations, and no indices or shapes."""
    name = files.numpy_name(tensor.type)
    quantized = tensor.quantization is not None and tensor.quantization.scale is not None
    return name in ("int4", "int8", "uint8", "int16") and quantized


def _origins(made: Any, graph: Any) -> Mapping[int, int]:
    """The constant that each DEQUANTIZE gives back, by what it gives."""
    return {
        int(operator.outputs[0]): int(operator.inputs[0])
        for operator in graph.operators
        if files.operator_name(made, operator) == "DEQUANTIZE"
    }


def _parameters(made: Any, tensor: Any) -> Parameters | None:
    import numpy as np

    held, dtype = tensor.quantization, files.numpy_name(tensor.type)
    if held is None or held.scale is None or not len(held.scale) or dtype not in LEVELS:
        return None
    shape, data = files.signature_of(tensor), files.data_of(made, tensor)
    by_channel = data is not None and len(held.scale) > 1 and held.quantizedDimension < len(shape)
    return Parameters(
        tensor=files.text(tensor.name),
        scales=np.asarray(held.scale),
        points=None if held.zeroPoint is None else np.asarray(held.zeroPoint),
        dtype=dtype,
        channels=shape[held.quantizedDimension] if by_channel else None,
        levels=None if data is None else data.view(dtype).reshape(shape),
        axis=held.quantizedDimension,
    )
