"""What is done to the file that onnx2tf made of a prepared graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.tflite_file import (
    SIGNATURE,
    Editor,
    data_of,
    integers_of,
    numpy_name,
    operator_name,
    prune,
    set_shape,
    signature_of,
    tensor_type,
    text,
)
from crosscast.targets.families.tflite_graph import Port


def finish(model: Any, *, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Give a file that onnx2tf made of a prepared graph the ports that the ONNX graph declared.

    Names, order, shapes and dtypes become exactly the declared ones; inputs that nothing reads
    are declared again. Works in place. Raises StageError where that cannot be done.
    """
    graph = model.subgraphs[0]
    editor = Editor(model, graph)
    _forget_results(model, graph)
    _free_leading_ones(model, graph)
    _connect_fully(editor)
    graph.inputs = [_restored_input(editor, port) for port in inputs]
    graph.outputs = [_restored_output(editor, port) for port in outputs]
    for port, index in zip([*inputs, *outputs], [*graph.inputs, *graph.outputs], strict=True):
        graph.tensors[index].name = port.name
    make_names_unique(graph)
    sign(model, graph)
    model.description = ""
    # onnx2tf allows reduced precision, with which XNNPACK computes an fp32 file in fp16.
    model.metadata = [
        entry for entry in model.metadata or [] if b"reduced_precision" not in entry.name
    ]
    prune(model)


def _forget_results(model: Any, graph: Any) -> None:
    """Take the values away that onnx2tf leaves in tensors which operators compute, such as a shape:
    runtimes take them for constants, and the sizes that were converted with for the only ones.
    """
    for operator in graph.operators:
        for index in operator.outputs:
            if data_of(model, graph.tensors[index]) is not None:
                graph.tensors[index].buffer = 0


def _free_leading_ones(model: Any, graph: Any) -> None:
    """Let reshapings follow the batch where onnx2tf fixed it to the 1 that it assumes.

    The batch comes first in memory, so in a constant target shape it is the leading 1.
    """
    for operator in graph.operators:
        if operator_name(model, operator) != "RESHAPE" or len(operator.inputs) < 2:
            continue
        source, target = (graph.tensors[index] for index in operator.inputs[:2])
        shape = integers_of(model, target)
        free = signature_of(source)
        if free[:1] == (-1,) and free.count(-1) == 1 and shape[:1] == [1] and -1 not in shape:
            shape = [-1, *shape[1:]]
            changed = Editor(model, graph).reshape(operator.inputs[0], operator.outputs[0], shape)
            operator.inputs, operator.builtinOptions = changed.inputs, changed.builtinOptions


def _connect_fully(editor: Editor) -> None:
    """Turn matrix products with constant weights into FULLY_CONNECTED, which LiteRT runs faster
    and the quantizer takes.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph, turned = editor.graph, dict[int, int]()
    for position, operator in enumerate(graph.operators):
        if not _is_product_with_weights(editor.model, graph, operator):
            continue
        source, index = operator.inputs
        if not (operator.builtinOptions and operator.builtinOptions.adjY):
            index = turned[index] if index in turned else _turned(editor, index)
            turned[operator.inputs[1]] = index
        made = editor.operator("FULLY_CONNECTED", [source, index, -1], operator.outputs[0], 6)
        made.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        made.builtinOptions = schema.FullyConnectedOptionsT()
        made.builtinOptions.keepNumDims = True
        graph.operators[position] = made


def _is_product_with_weights(model: Any, graph: Any, operator: Any) -> bool:
    if operator_name(model, operator) != "BATCH_MATMUL":
        return False
    weights = graph.tensors[operator.inputs[1]]
    is_plain = not operator.builtinOptions or not operator.builtinOptions.adjX
    return is_plain and len(signature_of(weights)) == 2 and data_of(model, weights) is not None


def _turned(editor: Editor, index: int) -> int:
    """A constant matrix, transposed."""
    tensor = editor.graph.tensors[index]
    values = data_of(editor.model, tensor).view(numpy_name(tensor.type))
    turned = values.reshape(signature_of(tensor)).T
    return editor.tensor(f"{text(tensor.name)}_turned", tensor.type, turned.shape, turned)


def _wanted(port: Port) -> tuple[int, ...]:
    return tuple(-1 if size is None else size for size in port.shape)


def _restored_input(editor: Editor, port: Port) -> int:
    graph = editor.graph
    index = editor.find(port.alias, graph.inputs)
    if index is None:
        return editor.tensor(port.alias, tensor_type(port.dtype), _wanted(port))
    tensor = graph.tensors[index]
    if tensor.type != tensor_type(port.dtype):
        raise StageError(
            f"input '{port.name}' is {port.dtype}, which onnx2tf made {numpy_name(tensor.type)}",
            fix=f"give the model an input of {numpy_name(tensor.type)}",
        )
    if port.shape == () and signature_of(tensor) == (1,):
        # onnx2tf gives scalars a dimension.
        scalar = editor.tensor(port.alias, tensor.type, ())
        tensor.name = f"{port.alias}_as_vector"
        graph.operators.insert(0, editor.reshape(scalar, index, (1,)))
        return scalar
    if signature_of(tensor) != _wanted(port):
        raise StageError(
            f"input '{port.name}' has shape {_wanted(port)}, which onnx2tf made "
            f"{signature_of(tensor)}"
        )
    return index


def _restored_output(editor: Editor, port: Port) -> int:
    """The tensor that is to be the output, in its own shape: see `isolate_ports`."""
    graph = editor.graph
    index = editor.find(port.alias, graph.outputs)
    if index is None:
        raise StageError(f"onnx2tf lost the output '{port.name}'")
    maker: Any = next((made for made in graph.operators if index in made.outputs), None)
    is_flattening = maker and operator_name(editor.model, maker) == "RESHAPE"
    if is_flattening and _is_shaped(editor, maker.inputs[0], _wanted(port)):
        graph.operators.remove(maker)
        index = maker.inputs[0]
    elif signature_of(graph.tensors[index]) == _wanted(port):
        pass  # given its shape back already
    elif is_flattening:
        position = graph.operators.index(maker)
        graph.operators[position] = editor.reshape(maker.inputs[0], index, _reshapable(port))
    else:
        flat, kind = index, graph.tensors[index].type
        index = editor.tensor(f"{port.alias}_shaped", kind, _wanted(port))
        graph.operators.append(editor.reshape(flat, index, _reshapable(port)))
    set_shape(graph.tensors[index], _wanted(port))
    index = _of_dtype(editor, int(index), port)
    editor.taken.add(index)
    return index


def _is_shaped(editor: Editor, source: int, wanted: tuple[int, ...]) -> bool:
    """Whether the tensor that is flattened has the wanted shape, and is free to be an output."""
    graph = editor.graph
    tensor = graph.tensors[source]
    found = signature_of(tensor)
    constant = data_of(editor.model, tensor) is not None
    return (
        not constant
        and source not in graph.inputs
        and source not in editor.taken
        and len(found) == len(wanted)
        and all(want in (-1, size) for want, size in zip(wanted, found, strict=True))
    )


def _reshapable(port: Port) -> tuple[int, ...]:
    """The port's shape as RESHAPE takes it: with one unknown dimension at the most."""
    if sum(size is None for size in port.shape) > 1:
        raise StageError(
            f"output '{port.name}' has several dynamic dimensions, and TFLite conversion left "
            "it in another layout",
            fix="make all its dimensions but one static",
        )
    return _wanted(port)


def _of_dtype(editor: Editor, index: int, port: Port) -> int:
    """The output in the dtype that the port declares: onnx2tf narrows some integers."""
    tensor, wanted = editor.graph.tensors[index], tensor_type(port.dtype)
    if tensor.type == wanted:
        return index
    if {numpy_name(tensor.type), port.dtype} != {"int32", "int64"}:
        raise StageError(
            f"output '{port.name}' is {port.dtype}, which onnx2tf made {numpy_name(tensor.type)}"
        )
    cast = editor.tensor(f"{port.alias}_cast", wanted, _wanted(port))
    editor.graph.operators.append(editor.cast(index, cast))
    return cast


def make_names_unique(graph: Any) -> None:
    """Rename inner tensors that bear a port's name: the quantizer tells tensors by name."""
    ports = {*graph.inputs, *graph.outputs}
    names = {text(graph.tensors[index].name) for index in ports}
    for index, tensor in enumerate(graph.tensors):
        if index not in ports and text(tensor.name) in names:
            tensor.name = f"{text(tensor.name)}_inner_{index}"


def sign(model: Any, graph: Any) -> None:
    """Declare the ports by name, in order."""
    from ai_edge_litert import schema_py_generated as schema

    def named(index: int) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = graph.tensors[index].name, index
        return entry

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [named(index) for index in graph.inputs]
    signature.outputs = [named(index) for index in graph.outputs]
    model.signatureDefs = [signature]
