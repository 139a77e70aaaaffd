"""What a model's file shows that a family of targets cannot take. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crosscast.pipeline.init.facts import Input
from crosscast.targets.base import Delivered

FLATBUFFER = 2**31 - 1
"""Bytes that a TFLite file can address."""
MAX_RANK = 5
"""Of the tensors that most of LiteRT's kernels, and Core ML, take."""
CONTROL = ("If", "Loop", "Scan")
NO_TFLITE = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence", "String", "TfIdf")
"""How operators begin that have no TFLite equivalent, whatever they are given."""
INTEGER = ("DequantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
"""Operators, one of which each quantized layer of an ONNX graph has at least."""
QUANTIZED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Attention", "Einsum")
"""Operators with weights that an int8 target stores in 8 bits."""


def of_onnx(operators: Mapping[str, int], inputs: Sequence[Input], weights: int) -> dict[str, str]:
    """Why a format ("tflite", "coreml") or a precision ("int8") is out of the question, by its
    name.
    """
    foreign = [name for name in operators if "::" in name]
    lacking = [name for name in operators if name.startswith(NO_TFLITE)]
    branches = [name for name in operators if name in CONTROL]
    found = _common(inputs, weights)
    if foreign:
        found["tflite"] = f"operators outside of ONNX's standard set: {_listed(foreign)}"
    elif lacking or branches:
        found["tflite"] = f"no TFLite equivalent of {_listed([*lacking, *branches])}"
    if lacking:
        found["coreml"] = f"no Core ML equivalent of {_listed(lacking)}"
    layers = sum(operators.get(name, 0) for name in QUANTIZED)
    if not layers:
        found["int8"] = "the model has no convolution, matrix product or recurrent layer"
    return found


def held_by(operators: Mapping[str, int]) -> Delivered:
    """The precision of the weights of an ONNX graph: int8 where its layers are quantized."""
    layers = sum(operators.get(name, 0) for name in QUANTIZED)
    integer = sum(operators.get(name, 0) for name in INTEGER)
    if any(name.endswith("::MatMulNBits") for name in operators):
        return "int4"
    return "int8" if integer and integer >= layers else "fp32"


def of_layers(
    operators: Mapping[str, int], inputs: Sequence[Input], weights: int
) -> dict[str, str]:
    """As `of_onnx`, of a model whose ONNX graph is not made yet."""
    found = _common(inputs, weights)
    if not any(operators.get(name) for name in QUANTIZED):
        found["int8"] = "the model has no convolution, matrix product or recurrent layer"
    return found


def _common(inputs: Sequence[Input], weights: int) -> dict[str, str]:
    if any(one.dtype == "string" for one in inputs):
        return dict.fromkeys(("tflite", "coreml", "int8"), "text inputs")
    deep = [one for one in inputs if len(one.shape) > MAX_RANK]
    if deep:
        reason = f"input '{deep[0].name}' has more than {MAX_RANK} dimensions"
        return {"tflite": reason, "coreml": reason}
    if weights > FLATBUFFER:
        return {"tflite": f"{weights / 2**30:.1f} GB of weights, a TFLite file holds 2"}
    return {}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:4])
    return f"{shown} …" if len(names) > 4 else shown
