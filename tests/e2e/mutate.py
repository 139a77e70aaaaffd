"""Model files that can be corrupted: an ONNX and a TFLite file behind one set of edits.

Each edit gives a file that still loads (where its runtime lets it) and computes something else, as
a defect of a converter, of a quantizer or of a disk would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant of a file, as it is stored."""

    read: Callable[[], Array]
    write: Callable[[Array], None]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or matrix product; its weights' first axis are the output channels.

    scales: of quantized weights. inputs: the weights' axis of input channels.
    """

    weight: Constant
    bias: Constant
    scales: Constant | None
    inputs: int


class ModelFile(Protocol):
    """A file in memory, whose one input is an NCHW image with a dynamic batch, and whose one
    output is float32[batch, classes]."""

    @property
    def layers(self) -> list[Layer]:
        """In the order of computation; depthwise convolutions are left out."""
        ...

    def scale_input(self, factor: Array, offset: Array) -> None:
        """Feed the network input * factor + offset; both by channel."""
        ...

    def shift_input(self) -> None:
        """Feed the network its input one pixel further down and right."""
        ...

    def declare_nhwc(self) -> None:
        """Take the input as NHWC."""
        ...

    def scale_output(self, factor: float) -> None:
        """Give output * factor."""
        ...

    def pick_outputs(self, order: Sequence[int]) -> None:
        """Give the classes in another order."""
        ...

    def halve_output(self) -> None:
        """Give float16."""
        ...

    def rename(self, side: str, name: str) -> None:
        """Rename the input or the output."""
        ...

    def add_output(self, name: str) -> None:
        """Give an output more."""
        ...

    def drop_output(self) -> None:
        """Give none."""
        ...

    def fix_batch(self) -> None:
        """Declare a batch of 1."""
        ...

    def save(self, folder: Path) -> None:
        """Write it under the name that its target gives it."""
        ...


def opened(artifact: Path) -> ModelFile:
    """The model file of an artifact."""
    return OnnxFile(artifact) if (artifact / "model.onnx").exists() else TfliteFile(artifact)


class OnnxFile:
    """`model.onnx`."""

    def __init__(self, artifact: Path) -> None:
        import onnx

        self.onnx = onnx
        self.model = onnx.load(artifact / "model.onnx")
        self.graph = self.model.graph
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}

    def save(self, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(self.model.SerializeToString())

    @property
    def layers(self) -> list[Layer]:
        stored = {n.output[0]: n.input for n in self.graph.node if n.op_type == "DequantizeLinear"}
        found = []
        for node in self.graph.node:
            if node.op_type not in ("Conv", "Gemm") or self._groups(node) > 1:
                continue
            weight, bias = (stored.get(name, [name]) for name in node.input[1:3])
            found.append(
                Layer(
                    weight=self._constant(weight[0]),
                    bias=self._constant(bias[0]),
                    scales=self._constant(weight[1]) if len(weight) > 1 else None,
                    inputs=1,
                )
            )
        return found

    def scale_input(self, factor: Array, offset: Array) -> None:
        # the last one fed is the first one run
        for operator, values in (("Add", offset), ("Mul", factor)):
            shaped = values.astype(np.float32).reshape(1, -1, 1, 1)
            self._feed(operator, self._add(operator, shaped))

    def shift_input(self) -> None:
        self._feed("Slice", *(self._add(*edge) for edge in (
            ("starts", np.array([0, 0])), ("ends", np.array([-1, -1])), ("axes", np.array([2, 3]))
        )))  # fmt: skip
        self._feed("Pad", self._add("pads", np.array([0, 0, 1, 1, 0, 0, 0, 0])))

    def declare_nhwc(self) -> None:
        self._feed("Transpose", perm=[0, 3, 1, 2])
        dims = self.graph.input[0].type.tensor_type.shape.dim
        order = [*dims]
        channels = order.pop(1)
        del dims[:]
        dims.extend([*order, channels])

    def scale_output(self, factor: float) -> None:
        self._drain("Mul", self._add("output_factor", np.float32(factor)))

    def pick_outputs(self, order: Sequence[int]) -> None:
        self._drain("Gather", self._add("order", np.array(order)), axis=1)

    def halve_output(self) -> None:
        self._drain("Cast", to=self.onnx.TensorProto.FLOAT16)
        self.graph.output[0].type.tensor_type.elem_type = self.onnx.TensorProto.FLOAT16

    def rename(self, side: str, name: str) -> None:
        value = getattr(self.graph, side)[0]
        for node in self.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if its == value.name else its for its in names]
        value.name = name

    def add_output(self, name: str) -> None:
        its = self.graph.output[0]
        self.graph.node.append(self.onnx.helper.make_node("Identity", [its.name], [name]))
        added = self.graph.output.add()
        added.CopyFrom(its)
        added.name = name

    def drop_output(self) -> None:
        del self.graph.output[:]

    def fix_batch(self) -> None:
        for value in (*self.graph.input, *self.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    def _groups(self, node: Any) -> int:
        return next((entry.i for entry in node.attribute if entry.name == "group"), 1)

    def _constant(self, name: str) -> Constant:
        tensor = self.tensors[name]
        return Constant(
            read=lambda: self.onnx.numpy_helper.to_array(tensor).copy(),
            write=lambda array: tensor.CopyFrom(self.onnx.numpy_helper.from_array(array, name)),
        )

    def _add(self, name: str, array: Any) -> str:
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def _feed(self, operator: str, *constants: str, **attributes: Any) -> None:
        """Put an operator between the input and those that read it."""
        name = self.graph.input[0].name
        fed = f"{name}/{operator}"
        for node in self.graph.node:
            node.input[:] = [fed if its == name else its for its in node.input]
        made = self.onnx.helper.make_node(operator, [name, *constants], [fed], **attributes)
        self.graph.node.insert(0, made)

    def _drain(self, operator: str, *constants: str, **attributes: Any) -> None:
        """Put an operator between the output and the one that computes it."""
        name = self.graph.output[0].name
        for node in self.graph.node:
            node.output[:] = [f"{name}/raw" if its == name else its for its in node.output]
        inputs = [f"{name}/raw", *constants]
        self.graph.node.append(self.onnx.helper.make_node(operator, inputs, [name], **attributes))


class TfliteFile:
    """`model.tflite`."""

    def __init__(self, artifact: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        from crosscast.targets.families import tflite_file

        self.files, self.schema = tflite_file, schema
        self.model = tflite_file.read(artifact / "model.tflite")
        self.graph = self.model.subgraphs[0]
        self.signature = self.model.signatureDefs[0]
        self.edit = tflite_file.Editor(self.model, self.graph)

    def save(self, folder: Path) -> None:
        self.files.write(self.model, folder / "model.tflite")

    @property
    def layers(self) -> list[Layer]:
        stored = {
            operator.outputs[0]: operator.inputs[0]
            for operator in self.graph.operators
            if self.files.operator_name(self.model, operator) == "DEQUANTIZE"
        }
        found = []
        for operator in self.graph.operators:
            name = self.files.operator_name(self.model, operator)
            if name not in ("CONV_2D", "FULLY_CONNECTED"):
                continue
            weight, bias = (
                self.graph.tensors[stored.get(index, index)] for index in operator.inputs[1:3]
            )
            quantized = weight.quantization is not None and weight.quantization.scale is not None
            found.append(
                Layer(
                    weight=self._constant(weight),
                    bias=self._constant(bias),
                    scales=self._scales(weight) if quantized else None,
                    inputs=-1,
                )
            )
        return found

    def scale_input(self, factor: Array, offset: Array) -> None:
        # the last one fed is the first one run
        for operator, values in (("ADD", offset), ("MUL", factor)):
            added = self._add(operator, values.astype(np.float32).reshape(1, -1, 1, 1))
            self._options(self._feed(operator, [added]), operator.title())

    def shift_input(self) -> None:
        shape = self.files.signature_of(self._tensor("inputs"))
        begin = self._add("begin", np.zeros(4, np.int32))
        size = self._add("size", np.array(shape, np.int32))
        self._options(self._feed("SLICE", [begin, size]), "Slice")
        padded = [*shape[:2], shape[2] + 1, shape[3] + 1]
        pads = self._add("pads", np.array([[0, 0], [0, 0], [1, 0], [1, 0]], np.int32))
        self._options(self._feed("PAD", [pads], shape=padded), "Pad")

    def declare_nhwc(self) -> None:
        tensor = self._tensor("inputs")
        shape = self.files.signature_of(tensor)
        perm = self._add("perm", np.array([0, 3, 1, 2], np.int32))
        self._options(self._feed("TRANSPOSE", [perm], shape=shape), "Transpose")
        self.files.set_shape(tensor, [shape[0], *shape[2:], shape[1]])

    def scale_output(self, factor: float) -> None:
        added = self._add("output_factor", np.full((1, 1), factor, np.float32))
        self._options(self._drain("MUL", [added]), "Mul")

    def pick_outputs(self, order: Sequence[int]) -> None:
        added = self._add("order", np.array(order, np.int32))
        self._options(self._drain("GATHER", [added]), "Gather", axis=1)

    def halve_output(self) -> None:
        half, full = self.schema.TensorType.FLOAT16, self.schema.TensorType.FLOAT32
        cast = self._drain("CAST", [], kind=half)
        self._options(cast, "Cast", inDataType=full, outDataType=half)

    def rename(self, side: str, name: str) -> None:
        getattr(self.signature, f"{side}s")[0].name = name
        self._tensor(f"{side}s").name = name

    def add_output(self, name: str) -> None:
        last = self._tensor("outputs")
        added = self.edit.tensor(name, last.type, self.files.signature_of(last))
        one = self._add("one", np.ones((1, 1), np.float32))
        made = self.edit.operator("MUL", [int(self.graph.outputs[0]), one], added)
        self._options(made, "Mul")
        self.graph.operators.append(made)
        self.graph.outputs = [*self.graph.outputs, added]
        entry = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = name, added
        self.signature.outputs.append(entry)

    def drop_output(self) -> None:
        self.graph.outputs = []
        self.signature.outputs = []

    def fix_batch(self) -> None:
        for side in ("inputs", "outputs"):
            self._tensor(side).shapeSignature = None

    def _tensor(self, side: str) -> Any:
        return self.graph.tensors[getattr(self.graph, side)[0]]

    def _constant(self, tensor: Any) -> Constant:
        buffer = self.model.buffers[tensor.buffer]
        dtype = self.files.numpy_name(tensor.type)

        def write(array: Array) -> None:
            buffer.data = np.frombuffer(array.astype(dtype).tobytes(), np.uint8)

        return Constant(
            read=lambda: np.asarray(buffer.data).view(dtype).reshape(tensor.shape).copy(),
            write=write,
        )

    def _scales(self, tensor: Any) -> Constant:
        def write(array: Array) -> None:
            tensor.quantization.scale = array.astype(np.float32)

        return Constant(read=lambda: np.array(tensor.quantization.scale), write=write)

    def _add(self, name: str, array: Array) -> int:
        kind = self.files.tensor_type(array.dtype.name)
        return int(self.edit.tensor(name, kind, array.shape, array))

    def _feed(self, operator: str, constants: list[int], shape: Sequence[int] = ()) -> Any:
        """Put an operator between the input and those that read it; `shape` is its output's."""
        source = int(self.graph.inputs[0])
        tensor = self.graph.tensors[source]
        shape = shape or self.files.signature_of(tensor)
        fed = self.edit.tensor(f"input/{operator}", tensor.type, shape)
        for its in self.graph.operators:
            its.inputs = [fed if index == source else index for index in its.inputs]
        made = self.edit.operator(operator, [source, *constants], fed)
        self.graph.operators.insert(0, made)
        return made

    def _drain(self, operator: str, constants: list[int], kind: int | None = None) -> Any:
        """Put an operator between the output and the one that computes it; it gives `kind`."""
        raw = int(self.graph.outputs[0])
        tensor = self.graph.tensors[raw]
        kind = tensor.type if kind is None else kind
        last = self.edit.tensor(f"output/{operator}", kind, self.files.signature_of(tensor))
        made = self.edit.operator(operator, [raw, *constants], last)
        self.graph.operators.append(made)
        self.graph.outputs = [last]
        self.signature.outputs[0].tensorIndex = last
        return made

    def _options(self, operator: Any, name: str, **values: Any) -> None:
        operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, f"{name}Options")
        operator.builtinOptions = getattr(self.schema, f"{name}OptionsT")()
        for key, value in values.items():
            setattr(operator.builtinOptions, key, value)
