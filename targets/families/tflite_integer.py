"""TFLite files for microcontrollers: every operator in int8, inputs and outputs too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import tflite_file as files

IntegerIO = Literal["int8", "uint8"]

LOWEST = -1e30
"""Paddings below stand for minus infinity."""

MOVERS = ("TRANSPOSE", "RESHAPE")
"""Operators that move values about and compute none."""

WIDENED = 128
"""What uint8 lies above int8."""


def quantizable(path: Path) -> bytes:
    """The float file with what the quantizer stumbles over replaced by what it takes.

    A padding with zeros becomes a PAD, which has no value to quantize, and one with minus infinity
    before a pooling something of equal effect. Leaky activations become the greater of two values,
    others part of the operator before them.
    """
    made = files.read(path)
    graph = made.subgraphs[0]
    editor = files.Editor(made, graph)
    _spell_out_leaks(editor)
    _fuse_activations(made, graph)
    for operator in list(graph.operators):
        if files.operator_name(made, operator) == "PADV2":
            _pad_without_value(editor, operator)
    files.prune(made)
    return files.packed(made)


def _spell_out_leaks(editor: files.Editor) -> None:
    """LEAKY_RELU and PRELU, which the quantizer leaves in float, as the greater of x and alpha * x;
    with an alpha above 1 they stay.
    """
    import numpy as np

    made, graph = editor.model, editor.graph
    for position in range(len(graph.operators) - 1, -1, -1):
        operator = graph.operators[position]
        name = files.operator_name(made, operator)
        source, output = int(operator.inputs[0]), int(operator.outputs[0])
        if name == "LEAKY_RELU":
            alpha = np.array([operator.builtinOptions.alpha], np.float32)
        elif name == "PRELU" and files.data_of(made, graph.tensors[operator.inputs[1]]) is not None:
            tensor = graph.tensors[operator.inputs[1]]
            alpha = files.data_of(made, tensor).view(np.float32).reshape(files.signature_of(tensor))
        else:
            continue
        if alpha.max() > 1:
            continue
        stem, kind = files.text(graph.tensors[output].name), graph.tensors[output].type
        factor = editor.tensor(f"{stem}_alpha", kind, alpha.shape, alpha)
        leak = editor.tensor(f"{stem}_leak", kind, files.signature_of(graph.tensors[output]))
        graph.operators[position : position + 1] = [
            editor.multiply(editor.operator("MUL", [source, factor], leak)),
            editor.operator("MAXIMUM", [source, leak], output),
        ]


def _fuse_activations(made: Any, graph: Any) -> None:
    """RELU6 and RELU as part of the operator whose result only they read, though it be moved
    about in between.
    """
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.ActivationFunctionType
    for operator in list(graph.operators):
        name = files.operator_name(made, operator)
        if name not in ("RELU", "RELU6"):
            continue
        before = _only_maker(graph, int(operator.inputs[0]))
        maker = before
        while maker is not None and files.operator_name(made, maker) in MOVERS:
            maker = _only_maker(graph, int(maker.inputs[0]))
        options: Any = getattr(maker, "builtinOptions", None)
        if before is not None and getattr(options, "fusedActivationFunction", None) == kinds.NONE:
            options.fusedActivationFunction = getattr(kinds, name)
            before.outputs = [int(operator.outputs[0])]
            graph.operators.remove(operator)


def _only_maker(graph: Any, index: int) -> Any:
    """The operator that makes a tensor which one other alone reads; None where several do."""
    readers = [each for each in graph.operators if index in each.inputs]
    if len(readers) != 1 or index in graph.outputs:
        return None
    return next((each for each in graph.operators if index in each.outputs), None)


def _padding(made: Any, graph: Any, operator: Any) -> float | None:
    """The constant that a PADV2 pads a float tensor with."""
    import numpy as np

    tensor = graph.tensors[operator.inputs[2]]
    data = files.data_of(made, tensor)
    is_float = files.numpy_name(tensor.type) == "float32"
    return None if data is None or not is_float else float(data.view(np.float32)[0])


def _pad_without_value(editor: files.Editor, operator: Any) -> None:
    """Replace a PADV2: with zeros by a PAD; with minus infinity, where the greatest is taken next
    of values above zero, by one too, and of others by their own reflection, which is among them.
    """
    from ai_edge_litert import schema_py_generated as schema

    made, graph = editor.model, editor.graph
    value = _padding(made, graph, operator)
    readers = [each for each in graph.operators if operator.outputs[0] in each.inputs]
    pooled = bool(readers) and all(
        files.operator_name(made, each) == "MAX_POOL_2D" for each in readers
    )
    lowest = value is not None and value < LOWEST and pooled
    if value == 0.0 or (lowest and _is_positive(made, graph, int(operator.inputs[0]))):
        pad = editor.operator("PAD", list(operator.inputs[:2]), int(operator.outputs[0]))
        pad.builtinOptionsType = schema.BuiltinOptions.PadOptions
        pad.builtinOptions = schema.PadOptionsT()
    elif lowest and _is_within_windows(made, graph, operator, readers):
        pad = editor.operator("MIRROR_PAD", list(operator.inputs[:2]), int(operator.outputs[0]))
        pad.builtinOptionsType = schema.BuiltinOptions.MirrorPadOptions
        pad.builtinOptions = schema.MirrorPadOptionsT()
        pad.builtinOptions.mode = schema.MirrorPadMode.SYMMETRIC
    else:
        return
    graph.operators[graph.operators.index(operator)] = pad


def _is_positive(made: Any, graph: Any, index: int) -> bool:
    """Whether a tensor comes out of a RELU."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.ActivationFunctionType
    maker = next((each for each in graph.operators if index in each.outputs), None)
    fused = getattr(getattr(maker, "builtinOptions", None), "fusedActivationFunction", None)
    return maker is not None and (
        fused in (kinds.RELU, kinds.RELU6)
        or files.operator_name(made, maker) in ("RELU", "RELU6", "LOGISTIC", "SOFTMAX")
    )


def _is_within_windows(made: Any, graph: Any, operator: Any, readers: list[Any]) -> bool:
    """Whether every window holds what is reflected into it."""
    pads = files.integers_of(made, graph.tensors[operator.inputs[1]])
    widths = [
        (each.builtinOptions.filterHeight, each.builtinOptions.filterWidth) for each in readers
    ]
    return len(pads) == 8 and all(
        2 * pad <= width
        for height, breadth in widths
        for pad, width in zip(pads[2:6], (height, height, breadth, breadth), strict=True)
    )


def finish_integer(made: Any, *, dtype: str) -> None:
    """Give inputs and outputs that dtype. Raises StageError where an operator computes in floats
    still, or an input or output is none.
    """
    graph = made.subgraphs[0]
    _refuse_floats(made, graph)
    if dtype == "uint8":
        _widen(files.Editor(made, graph))


def _refuse_floats(made: Any, graph: Any) -> None:
    float32 = files.tensor_type("float32")
    remaining: dict[str, str] = {}
    for operator in graph.operators:
        name = files.operator_name(made, operator)
        used = [int(index) for index in (*operator.inputs, *operator.outputs) if index >= 0]
        if name not in ("QUANTIZE", "DEQUANTIZE") and any(
            graph.tensors[index].type == float32 for index in used
        ):
            remaining.setdefault(name, files.text(graph.tensors[operator.outputs[0]].name))
    if remaining:
        listed = ", ".join(f"{name} (at {where})" for name, where in sorted(remaining.items()))
        raise StageError(
            f"not every operator can be quantized to int8; these remain in float: {listed}",
            fix="leave 'io' out: inputs and outputs then stay float32, and only convolutions and "
            "matrix products are quantized; or replace these operations in the model's code",
        )
    for index in (*graph.inputs, *graph.outputs):
        if graph.tensors[index].type == float32:
            raise StageError(
                f"'{files.text(graph.tensors[index].name)}' could not be quantized to int8",
                fix="leave 'io' out",
            )


def _widen(editor: files.Editor) -> None:
    """Put a QUANTIZE between each int8 input or output and one of uint8, 128 above."""
    graph = editor.graph
    int8 = files.tensor_type("int8")
    # Lists, since what was read from a file is not writable.
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    for ports, is_input in ((graph.inputs, True), (graph.outputs, False)):
        for place, index in enumerate(ports):
            inner = graph.tensors[index]
            if inner.type != int8:
                continue
            outer = editor.tensor(files.text(inner.name), files.tensor_type("uint8"), ())
            files.set_shape(graph.tensors[outer], files.signature_of(inner))
            graph.tensors[outer].quantization = files.raised(inner.quantization, WIDENED)
            inner.name = f"{files.text(inner.name)}_int8"
            ends = ([outer], index) if is_input else ([index], outer)
            step = editor.operator("QUANTIZE", *ends)
            graph.operators.insert(0 if is_input else len(graph.operators), step)
            ports[place] = outer
            _sign_again(editor.model, int(index), outer)


def _sign_again(made: Any, old: int, new: int) -> None:
    for signature in made.signatureDefs or []:
        for entry in [*signature.inputs, *signature.outputs]:
            if entry.tensorIndex == old:
                entry.tensorIndex = new
