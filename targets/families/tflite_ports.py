"""Inputs and outputs of a TFLite file as they were before it was quantized."""

from __future__ import annotations

from typing import Any

from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.tflite_finish import make_names_unique, sign


def keep_floats(made: Any, whole: Any) -> None:
    """Make inputs and outputs float32 again that the quantizer left in int8: such as an output
    that a quantized operator reads, too.
    """
    graph, origin = made.subgraphs[0], whole.subgraphs[0]
    editor = files.Editor(made, graph)
    # Lists, since what was read from a file is not writable.
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    for place, before in enumerate(origin.inputs):
        inner = int(graph.inputs[place])
        if _lost_float(graph.tensors[inner], origin.tensors[before]):
            graph.inputs[place] = outer = _float_twin(editor, inner)
            graph.operators.insert(0, editor.operator("QUANTIZE", [outer], inner))
    for place, before in enumerate(origin.outputs):
        inner = int(graph.outputs[place])
        if _lost_float(graph.tensors[inner], origin.tensors[before]):
            graph.outputs[place] = _float_output(editor, inner)


def _lost_float(tensor: Any, before: Any) -> bool:
    kinds = files.numpy_name(before.type), files.numpy_name(tensor.type)
    return kinds == ("float32", "int8")


def _float_twin(editor: files.Editor, index: int) -> int:
    """A new float32 tensor of another's shape."""
    tensor = editor.graph.tensors[index]
    name = f"{files.text(tensor.name)}_float32"
    return editor.tensor(name, files.tensor_type("float32"), files.signature_of(tensor))


def _float_output(editor: files.Editor, index: int) -> int:
    """What an int8 tensor was rounded from, where that is in the file; else its dequantized
    values.
    """
    graph = editor.graph
    maker: Any = next((each for each in graph.operators if index in each.outputs), None)
    if maker is not None and files.operator_name(editor.model, maker) == "QUANTIZE":
        source = int(maker.inputs[0])
        is_float = graph.tensors[source].type == files.tensor_type("float32")
        if is_float and source not in (*graph.inputs, *graph.outputs):
            return source
    outer = _float_twin(editor, index)
    graph.operators.append(editor.operator("DEQUANTIZE", [index], outer, version=2))
    return outer


def restore_ports(made: Any, whole: Any) -> None:
    """Give inputs and outputs their names, dynamic dimensions and signature back, some of which the
    quantizer forgets.
    """
    graph, origin = made.subgraphs[0], whole.subgraphs[0]
    pairs = [
        *zip(graph.inputs, origin.inputs, strict=True),
        *zip(graph.outputs, origin.outputs, strict=True),
    ]
    for index, before in pairs:
        tensor = graph.tensors[index]
        tensor.name = origin.tensors[before].name
        files.set_shape(tensor, files.signature_of(origin.tensors[before]))
    make_names_unique(graph)
    sign(made, graph)
