"""ONNX artifacts: run by ONNX Runtime, audited, and described to their users."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.targets.base import Precision
from crosscast.targets.families import onnx_values
from crosscast.targets.families.onnx import MODEL, attribute_bytes, graphs, load
from crosscast.targets.families.onnx_audit import audit
from crosscast.targets.families.onnx_held import FLOAT_KINDS, Held, Node

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto, NodeProto, TensorProto

    from crosscast.pipeline.parity.gains import Weight

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(string)": "string",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


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
        self.inputs = tuple(tensor_of(value) for value in self._session.get_inputs())
        self.outputs = tuple(tensor_of(value) for value in self._session.get_outputs())

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
    """Audit the file: what its weights are kept in, what its operators compute in, and the
    parameters of its quantization.
    """
    return audit(_held(load(artifact)))


def weights(*, artifact: Path) -> Iterator[Weight]:
    """The real numbers that the file's constants stand for."""
    return onnx_values.weights(_held(load(artifact)))


def _held(model: ModelProto) -> Held:
    from onnx import numpy_helper

    constants: dict[str, TensorProto] = {}
    dtypes: dict[str, str] = {}
    every = list(graphs(model.graph))
    for graph in every:
        constants |= {tensor.name: tensor for tensor in graph.initializer}
        for value in (*graph.input, *graph.value_info):
            dtypes[value.name] = FLOAT_KINDS.get(value.type.tensor_type.elem_type, "")
        for node in graph.node:
            if node.op_type == "Constant":
                values = [entry.t for entry in node.attribute if entry.name == "value"]
                constants |= dict(zip(node.output, values, strict=False))
    return Held(
        constants={name: described(tensor) for name, tensor in constants.items()},
        nodes=[_node(node) for graph in every for node in graph.node],
        attributes=sum(attribute_bytes(model).values()),
        dtypes=dtypes,
        results={value.name for graph in every for value in graph.output},
        read=lambda name: numpy_helper.to_array(constants[name]),
    )


def _node(node: NodeProto) -> Node:
    return Node(
        operator=node.op_type,
        inputs=list(node.input),
        outputs=list(node.output),
        name=node.name,
        numbers={entry.name: entry.i for entry in node.attribute},
    )


def described(tensor: TensorProto) -> tuple[str, int]:
    """The dtype of a constant, by numpy's name, and its bytes."""
    return held_in(tensor.data_type, prod(tensor.dims))


def held_in(kind: int, size: int) -> tuple[str, int]:
    """The name of an ONNX element type, and the bytes of so many elements."""
    import onnx

    dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(kind)
    bytes_ = (size + 1) // 2 if dtype.name in ("int4", "uint4") else size * dtype.itemsize
    return dtype.name, bytes_


def tensor_of(value: Any) -> Tensor:
    """A session's input or output. Raises StageError where it is no tensor."""
    if value.type not in DTYPES:
        raise StageError(
            f"'{value.name}' of the ONNX model is a {value.type}; only tensors can run"
        )
    shape = tuple(
        f"{value.name}_{axis}" if dim is None else dim for axis, dim in enumerate(value.shape)
    )
    return Tensor(name=value.name, shape=shape, dtype=DTYPES[value.type])
