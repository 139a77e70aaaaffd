"""TFLite files: reading, checking, mending and writing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

IDENTIFIER = b"TFL3"
SIGNATURE = "serving_default"
ALIGNMENT = 16
"""Bytes: what the schema asks of a buffer's start, for kernels that read weights in place."""


def read(path: Path) -> Any:
    """The file as a tree of Python objects (ModelT)."""
    return parse(path.read_bytes())


def parse(content: bytes | bytearray) -> Any:
    """A file's bytes as a tree of Python objects, its weights as views of them."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.size:  # kept behind the tables, as the quantizer does
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write(model: Any, path: Path) -> None:
    """Write the objects as a file; equal objects give equal bytes."""
    path.write_bytes(packed(model))


def packed(model: Any) -> bytes:
    """A file's bytes; equal objects give equal ones."""
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        """A builder that aligns buffers, which the generated code does not."""

        def CreateNumpyVector(self, values: Any) -> int:
            if values.dtype.itemsize > 1:
                return int(super().CreateNumpyVector(values))
            self.StartVector(1, values.size, ALIGNMENT)
            self.head -= values.size
            self.Bytes[self.head : self.head + values.size] = values.tobytes()
            self.vectorNumElems = values.size
            return int(self.EndVector())

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def operator_name(model: Any, operator: Any) -> str:
    """The operator's name in the schema ("CONV_2D"), or a custom operator's own name."""
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return text(code.customCode)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return str(names.get(builtin, builtin))


def custom_operators(model: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The name and the outputs' names of each operator that LiteRT has no kernel for."""
    from ai_edge_litert import schema_py_generated as schema

    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.CUSTOM:
                outputs = tuple(text(graph.tensors[index].name) for index in operator.outputs)
                yield text(code.customCode), outputs


def text(value: Any) -> str:
    """A name of the file as a string."""
    return value.decode() if isinstance(value, bytes) else str(value or "")


def numpy_name(kind: int) -> str:
    """Numpy's name of a TensorType."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name.lower() for name, value in vars(schema.TensorType).items()}
    return str(names[kind])


def tensor_type(dtype: str) -> int:
    """The TensorType of numpy's name."""
    from ai_edge_litert import schema_py_generated as schema

    return int(getattr(schema.TensorType, dtype.upper()))


def signature_of(tensor: Any) -> tuple[int, ...]:
    """A tensor's shape, -1 for a dynamic dimension."""
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    return tuple(int(size) for size in (() if shape is None else shape))


def data_of(model: Any, tensor: Any) -> Any:
    """The bytes of a constant as an array of uint8; None for anything else."""
    import numpy as np

    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def integers_of(model: Any, tensor: Any) -> list[int]:
    """The values of an int32 constant; none for anything else."""
    data = data_of(model, tensor)
    return [] if data is None else [int(value) for value in data.view("int32")]


def constants(made: Any, graph: Any) -> dict[int, set[str]]:
    """Each constant of a subgraph with the operators that read it, through DEQUANTIZE too."""
    readers: dict[int, set[str]] = {}
    origin: dict[int, int] = {}
    for operator in graph.operators:
        name = operator_name(made, operator)
        for index in operator.inputs:
            source = origin.get(index, index)
            if index < 0 or data_of(made, graph.tensors[source]) is None:
                continue
            readers.setdefault(source, set()).add(name)
            if name == "DEQUANTIZE":
                origin[operator.outputs[0]] = source
    return readers


class Editor:
    """Adds tensors, constants and operators to one subgraph of a file."""

    def __init__(self, model: Any, graph: Any) -> None:
        self.model = model
        self.graph = graph
        self.taken: set[int] = set()
        """Tensors that are outputs already."""

    def find(self, name: str, among: Sequence[int]) -> int | None:
        """The index of the tensor of that name among those indices."""
        return next((i for i in among if text(self.graph.tensors[i].name) == name), None)

    def tensor(self, name: str, kind: int, shape: Sequence[int], data: Any = None) -> int:
        """Add a tensor (-1 for a dynamic dimension), a constant where `data` is given."""
        from ai_edge_litert import schema_py_generated as schema

        added = schema.TensorT()
        added.name, added.type, added.buffer, added.hasRank = name, kind, 0, True
        set_shape(added, shape)
        if data is not None:
            added.buffer = self.buffer(data)
        self.graph.tensors.append(added)
        return len(self.graph.tensors) - 1

    def buffer(self, data: Any) -> int:
        """Add a constant's bytes; their index."""
        import numpy as np
        from ai_edge_litert import schema_py_generated as schema

        added = schema.BufferT()
        added.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.model.buffers.append(added)
        return len(self.model.buffers) - 1

    def operator(self, name: str, inputs: Sequence[int], output: int, version: int = 1) -> Any:
        """An operator without options, which the caller puts in its place."""
        from ai_edge_litert import schema_py_generated as schema

        made = schema.OperatorT()
        made.opcodeIndex = self._code(getattr(schema.BuiltinOperator, name), version)
        made.inputs, made.outputs = list(inputs), [output]
        return made

    def reshape(self, source: int, output: int, shape: Sequence[int]) -> Any:
        """A RESHAPE of `source` to `shape` (-1: what is left over)."""
        import numpy as np
        from ai_edge_litert import schema_py_generated as schema

        name = f"{text(self.graph.tensors[output].name)}_shape"
        target = self.tensor(name, schema.TensorType.INT32, [len(shape)], np.array(shape, np.int32))
        made = self.operator("RESHAPE", [source, target], output)
        made.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        made.builtinOptions = schema.ReshapeOptionsT()
        made.builtinOptions.newShape = list(shape)
        return made

    def cast(self, source: int, output: int) -> Any:
        """A CAST to the output's type."""
        from ai_edge_litert import schema_py_generated as schema

        made = self.operator("CAST", [source], output)
        made.builtinOptionsType = schema.BuiltinOptions.CastOptions
        made.builtinOptions = schema.CastOptionsT()
        made.builtinOptions.inDataType = self.graph.tensors[source].type
        made.builtinOptions.outDataType = self.graph.tensors[output].type
        return made

    def multiply(self, made: Any) -> Any:
        """A MUL with its options, which have no activation."""
        from ai_edge_litert import schema_py_generated as schema

        made.builtinOptionsType = schema.BuiltinOptions.MulOptions
        made.builtinOptions = schema.MulOptionsT()
        return made

    def _code(self, builtin: int, version: int) -> int:
        from ai_edge_litert import schema_py_generated as schema

        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                code.version = max(code.version, version)
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, version
        code.deprecatedBuiltinCode = min(builtin, 127)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def quantization(scales: Any, axis: int) -> Any:
    """The parameters of int8 numbers without a zero point: a scale for each place along `axis`."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    made = schema.QuantizationParametersT()
    made.scale = np.asarray(scales, np.float32)
    made.zeroPoint = np.zeros(len(made.scale), np.int64)
    made.quantizedDimension = axis
    return made


def raised(parameters: Any, offset: int) -> Any:
    """The same parameters with a higher zero point."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.QuantizationParametersT()
    made.scale = parameters.scale
    made.zeroPoint = [int(point) + offset for point in parameters.zeroPoint]
    return made


def set_shape(tensor: Any, shape: Sequence[int]) -> None:
    """Declare a tensor's shape, -1 for a dynamic dimension."""
    tensor.shape = [1 if size < 0 else size for size in shape]
    tensor.shapeSignature = list(shape) if -1 in shape else None


def prune(model: Any) -> None:
    """Remove the tensors that nothing uses, and the buffers that no tensor holds.

    The quantizer stumbles over the former, and the latter are dead weight.
    """
    for number, graph in enumerate(model.subgraphs):
        _prune_tensors(graph, [s for s in model.signatureDefs or [] if s.subgraphIndex == number])
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    holders = [*tensors, *(model.metadata or [])]
    kept = sorted({0, *(holder.buffer for holder in holders)})
    moved = {old: new for new, old in enumerate(kept)}
    model.buffers = [model.buffers[index] for index in kept]
    for holder in holders:
        holder.buffer = moved[holder.buffer]


def _prune_tensors(graph: Any, signatures: Sequence[Any]) -> None:
    lists = [(owner, name) for owner in [graph, *graph.operators] for name in ("inputs", "outputs")]
    lists += [(operator, "intermediates") for operator in graph.operators]
    used = {int(i) for owner, name in lists for i in _indices(owner, name)}
    kept = sorted(used - {-1})
    moved = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in kept]
    for owner, name in lists:
        setattr(owner, name, [moved[int(index)] for index in _indices(owner, name)])
    for signature in signatures:
        for entry in [*signature.inputs, *signature.outputs]:
            entry.tensorIndex = moved[entry.tensorIndex]


def _indices(owner: Any, name: str) -> Sequence[int]:
    found = getattr(owner, name)
    return () if found is None else found
