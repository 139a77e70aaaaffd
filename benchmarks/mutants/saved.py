"""The weights of saved files, as they are stored, to be damaged there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SCALED = {
    "DequantizeLinear": (0, 1),
    "MatMulNBits": (1, 2),
    "GatherBlockQuantized": (0, 2),
    "DynamicQuantizeLSTM": (1, 8),
}
"""Where ONNX operators take weights and their scales."""

LEVELS = "/quantized_data"
"""Ends the names of what Core ML gives back by a scale."""

LEAST = 16
"""Elements of what counts as a weight: shapes, scales and biases of small layers have fewer."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A file in memory.

    weights: views of what is stored, to be changed in place: floats, or integers of 8 bits.
    scales: of quantized weights, by their names, where the format keeps them as arrays.
    write: writes the artifact with what was changed to a directory.
    """

    weights: Mapping[str, Array]
    write: Callable[[Path], None]
    scales: Mapping[str, Array] = field(default_factory=dict)


def opened(artifact: Path) -> Saved:
    """The model file of an artifact's tree."""
    openers = {"model.onnx": _onnx, "model.ort": _ort, "model.tflite": _tflite}
    found = next((name for name in openers if (artifact / name).exists()), None)
    return _coreml(artifact) if found is None else openers[found](artifact)


def _onnx(artifact: Path) -> Saved:
    import onnx

    model = onnx.load(artifact / "model.onnx")
    arrays = {it.name: np.array(onnx.numpy_helper.to_array(it)) for it in model.graph.initializer}
    scales = dict(_scales(model.graph, arrays))

    def write(out: Path) -> None:
        for tensor in model.graph.initializer:
            tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
        onnx.save(model, out / "model.onnx")

    return Saved(
        weights={
            name: it for name, it in arrays.items() if name not in scales.values() and _counts(it)
        },
        scales={name: arrays[scale] for name, scale in scales.items() if _counts(arrays[name])},
        write=write,
    )


def _scales(graph: Any, arrays: Mapping[str, Array]) -> Iterator[tuple[str, str]]:
    """The names of weights and of their scales, by where operators have them; of those that are
    given back by Cast and Mul, or multiplied as integers, by how quantizers call them.
    """
    for node in graph.node:
        level, scale = SCALED.get(node.op_type, (0, -1))
        if scale > 0 and {node.input[level], node.input[scale]} <= arrays.keys():
            yield node.input[level], node.input[scale]
    for name in arrays:
        scale = f"{name.removesuffix('_quantized')}_scale"
        if name != scale and scale in arrays:
            yield name, scale


def _ort(artifact: Path) -> Saved:
    import onnx

    from crosscast.targets.families import onnx_ort_file

    content = bytearray((artifact / "model.ort").read_bytes())
    graph = onnx_ort_file.read(content).Model().Graph()
    weights: dict[str, Array] = {}
    for index in range(graph.InitializersLength()):
        tensor = graph.Initializers(index)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.DataType())
        if tensor.RawDataLength():
            shape = [tensor.Dims(axis) for axis in range(tensor.DimsLength())]
            weights[tensor.Name().decode()] = tensor.RawDataAsNumpy().view(dtype).reshape(shape)
    return Saved(
        weights={name: it for name, it in weights.items() if _counts(it)},
        write=lambda out: _write(out / "model.ort", content),
    )


def _tflite(artifact: Path) -> Saved:
    from crosscast.targets.families import tflite_file

    model = tflite_file.parse(bytearray((artifact / "model.tflite").read_bytes()))
    weights: dict[str, Array] = {}
    scales: dict[str, Array] = {}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        data = tflite_file.data_of(model, tensor)
        dtype = tflite_file.numpy_name(tensor.type)
        if data is None or dtype not in ("float32", "float16", "int8"):
            continue
        array = data.view(dtype).reshape(tensor.shape)
        if not _counts(array):
            continue
        weights[tflite_file.text(tensor.name)] = array
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            tensor.quantization.scale = np.array(tensor.quantization.scale, np.float32)
            scales[tflite_file.text(tensor.name)] = tensor.quantization.scale
    return Saved(
        weights=weights,
        scales=scales,
        write=lambda out: _write(out / "model.tflite", tflite_file.packed(model)),
    )


def _coreml(artifact: Path) -> Saved:
    from crosscast.targets.families import coreml
    from crosscast.targets.families.mil.blobs import CODES, NUMPY, RECORD

    spec = coreml.spec_of(artifact)
    place = Path(coreml.SPEC).parent / "weights/weight.bin"
    content = bytearray((artifact / coreml.MODEL / place).read_bytes())
    weights: dict[str, Array] = {}
    for name, value in _blobs(spec):
        _, code, size, start = RECORD.unpack_from(content, value.blobFileValue.offset)
        dtype = NUMPY.get(CODES[code], CODES[code])
        shape = [dim.constant.size for dim in value.type.tensorType.dimensions]
        if dtype in ("float16", "float32", "int8", "uint8"):
            array = np.frombuffer(content, np.uint8, size, start).view(dtype)
            weights[name] = array.reshape(shape) if prod(shape) == array.size else array

    def write(out: Path) -> None:
        shutil.copytree(artifact / coreml.MODEL, out / coreml.MODEL)
        _write(out / coreml.MODEL / place, content)

    scales = {name: f"{name.removesuffix(LEVELS)}/scale" for name in weights if LEVELS in name}
    return Saved(
        weights={
            name: it for name, it in weights.items() if name not in scales.values() and _counts(it)
        },
        scales={
            name: weights[scale]
            for name, scale in scales.items()
            if scale in weights and _counts(weights[name])
        },
        write=write,
    )


def _blobs(spec: Any) -> Iterator[tuple[str, Any]]:
    """The values of the program's constants that lie in the file of weights."""
    for function in spec.mlProgram.functions.values():
        for operation in function.block_specializations[function.opset].operations:
            if operation.type.startswith("const"):
                given = [
                    (key, it.value) for key, one in operation.inputs.items() for it in one.arguments
                ]
                for key, value in [*operation.attributes.items(), *given]:
                    if value.HasField("blobFileValue"):
                        yield f"{operation.outputs[0].name}/{key}", value


def _counts(array: Array) -> bool:
    return array.size >= LEAST and array.dtype.name in ("float32", "float16", "int8", "uint8")


def _write(path: Path, content: bytes | bytearray) -> None:
    path.write_bytes(content)
