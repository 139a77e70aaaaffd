"""ONNX artifacts: run by ONNX Runtime, audited, and described to their users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.targets.base import Delivered, Precision
from crosscast.targets.families.onnx import MODEL, graphs, load

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, TensorProto

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
DELIVERED: Mapping[str, Delivered] = {
    "float32": "fp32",
    "float64": "fp32",
    "float16": "fp16",
    "bfloat16": "fp16",
    "int8": "int8",
    "uint8": "int8",
    "int32": "int8",  # biases of int8 layers
}
FLOATS = {name for name, precision in DELIVERED.items() if precision in ("fp32", "fp16")}
QUANTIZED = ("DequantizeLinear", "QuantizeLinear")


class OnnxSession:
    """A model in ONNX Runtime on the CPU, optimised as its users' is, in one thread."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # More threads sum in another order, and parallel steps share the cores already.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise StageError(f"ONNX Runtime cannot load the model: {error}") from error
        self.inputs = tuple(_tensor(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor(value) for value in self._session.get_outputs())

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        try:
            values = self._session.run(None, inputs)
        except Exception as error:
            raise StageError(f"ONNX Runtime cannot run the model: {error}") from error
        return {tensor.name: value for tensor, value in zip(self.outputs, values, strict=True)}


def open(*, artifact: Path) -> OnnxSession:
    """Load the artifact in ONNX Runtime."""
    return OnnxSession(artifact / MODEL)


def precision(*, artifact: Path) -> Precision:
    """Audit the weights: constants that operators compute with, at the precision they are kept in.

    Shapes, indices, scales and zero points are no weights. A model without weights is judged by
    the conversions that its graph holds.
    """
    model = load(artifact)
    weights: Counter[str] = Counter()
    for tensor in _weights(model):
        weights[_dtype(tensor).name] += prod(tensor.dims) * _dtype(tensor).itemsize
    shares: Counter[Delivered] = Counter()
    for dtype, size in weights.items():
        shares[DELIVERED[dtype]] += size
    delivered = shares.most_common(1)[0][0] if shares else _by_graph(model)
    return Precision(delivered=delivered, weights=dict(sorted(weights.items())))


def _weights(model: ModelProto) -> list[TensorProto]:
    """The constants that are read as data: integers only through DequantizeLinear."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    stored = {name for node in nodes if node.op_type in QUANTIZED for name in node.input[:1]}
    scales = {name for node in nodes if node.op_type in QUANTIZED for name in node.input[1:]}
    return [
        tensor
        for name, tensor in _constants(model).items()
        if (name in stored and _dtype(tensor).name in DELIVERED)
        or (name not in scales and _dtype(tensor).name in FLOATS)
    ]


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    found: dict[str, TensorProto] = {}
    for graph in graphs(model.graph):
        found |= {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                values = [entry.t for entry in node.attribute if entry.name == "value"]
                found |= dict(zip(node.output, values, strict=False))
    return found


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    import onnx

    dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return dtype


def _by_graph(model: ModelProto) -> Delivered:
    import onnx

    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    if any(node.op_type in QUANTIZED for node in nodes):
        return "int8"
    casts = [entry.i for node in nodes if node.op_type == "Cast" for entry in node.attribute]
    return "fp16" if onnx.TensorProto.FLOAT16 in casts else "fp32"


def _tensor(value: Any) -> Tensor:
    if value.type not in DTYPES:
        raise StageError(
            f"'{value.name}' of the ONNX model is a {value.type}; only tensors can run"
        )
    shape = tuple(
        f"{value.name}_{axis}" if dim is None else dim for axis, dim in enumerate(value.shape)
    )
    return Tensor(name=value.name, shape=shape, dtype=DTYPES[value.type])
