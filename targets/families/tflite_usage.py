"""How a TFLite artifact is used: from Kotlin, from Java and from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from crosscast.targets.families import preprocessing
from crosscast.targets.families.markdown import example_shape, names, note

PYTHON = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from safetensors.numpy import load_file

vectors = load_file("vectors.safetensors")
inputs = {{name: vectors[f"0/in/{{name}}"] for name in {inputs}}}{quantized}
interpreter = Interpreter({path})
for name, detail in interpreter.get_signature_runner().get_input_details().items():
    interpreter.resize_tensor_input(detail["index"], inputs[name].shape)
outputs = interpreter.get_signature_runner()(**inputs){restored}
for name in {outputs}:
    expected = vectors[f"0/out/{{name}}"]
    value = outputs[name]
    print(name, value.shape, "largest difference:", np.abs(value * 1.0 - expected).max())
"""
QUANTIZED = """
for name, (scale, zero) in {scales}.items():  # real numbers as {dtype}
    steps = np.rint(inputs[name] / scale) + zero
    inputs[name] = np.clip(steps, {low}, {high}).astype(np.{dtype})"""
RESTORED = """
for name, (scale, zero) in {scales}.items():
    outputs[name] = (outputs[name].astype(np.float32) - zero) * scale"""
KOTLIN = """
// com.google.ai.edge.litert:litert
val interpreter = Interpreter(File(modelPath))
{resizes}val inputs = mapOf<String, Any>(
{inputs}
)
val outputs = mutableMapOf<String, Any>(
{outputs}
)
interpreter.runSignature(inputs, outputs)
"""
JAVA = """
// com.google.ai.edge.litert:litert
Interpreter interpreter = new Interpreter(new File(modelPath));
{resizes}Map<String, Object> inputs = new HashMap<>();
{inputs}
Map<String, Object> outputs = new HashMap<>();
{outputs}
interpreter.runSignature(inputs, outputs);
"""
BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "int16": 2}


def usage(*, manifest: Mapping[str, Any]) -> str:
    """USAGE.md: how to run the artifact from its directory."""
    path = json.dumps(manifest["files"][0]["path"])
    python = PYTHON.format(
        path=path,
        inputs=json.dumps(names(manifest, "inputs")),
        outputs=json.dumps(names(manifest, "outputs")),
        quantized=_in_steps(QUANTIZED, manifest, "inputs"),
        restored=_in_steps(RESTORED, manifest, "outputs"),
    )
    return note(
        manifest,
        ("Python (ai-edge-litert, safetensors)", "python", python),
        ("Kotlin (LiteRT)", "kotlin", _kotlin(manifest)),
        ("Java (LiteRT)", "java", _java(manifest)),
        *preprocessing.blocks(manifest, "python", "kotlin", "java"),
    )


def _in_steps(template: str, manifest: Mapping[str, Any], key: str) -> str:
    """The lines that bring real numbers to integers or back; nothing where none stand for any."""
    found = {
        tensor["name"]: list(tensor["quantization"])
        for tensor in manifest[key]
        if tensor.get("quantization")
    }
    dtype = str(manifest.get("io"))
    low, high = {"int8": (-128, 127)}.get(dtype, (0, 255))
    filled = template.format(scales=json.dumps(found), dtype=dtype, low=low, high=high)
    return filled if found else ""


def _kotlin(manifest: Mapping[str, Any]) -> str:
    def entries(key: str) -> str:
        return "\n".join(
            f"    {json.dumps(tensor['name'])} to {_buffer(tensor)}, // {_described(tensor)}"
            for tensor in manifest[key]
        )

    return KOTLIN.format(
        resizes=_resizes(manifest, array="intArrayOf({})", end=""),
        inputs=entries("inputs"),
        outputs=entries("outputs"),
    )


def _java(manifest: Mapping[str, Any]) -> str:
    def entries(key: str) -> str:
        return "\n".join(
            f"{key}.put({json.dumps(tensor['name'])}, {_buffer(tensor)}); // {_described(tensor)}"
            for tensor in manifest[key]
        )

    return JAVA.format(
        resizes=_resizes(manifest, array="new int[] {{{}}}", end=";"),
        inputs=entries("inputs"),
        outputs=entries("outputs"),
    )


def _resizes(manifest: Mapping[str, Any], *, array: str, end: str) -> str:
    """The calls that set the dynamic dimensions of inputs; LiteRT counts inputs from 0."""
    return "".join(
        f"interpreter.resizeInput({index}, {array.format(_listed(tensor))}){end}\n"
        for index, tensor in enumerate(manifest["inputs"])
        if example_shape(tensor) != list(tensor["shape"])
    )


def _listed(tensor: Mapping[str, Any]) -> str:
    return ", ".join(map(str, example_shape(tensor)))


def _buffer(tensor: Mapping[str, Any]) -> str:
    """An expression, the same in Kotlin and Java, for a buffer of the tensor's size in bytes."""
    size = prod(example_shape(tensor)) * BYTES.get(tensor["dtype"], 1)
    return f"ByteBuffer.allocateDirect({size}).order(ByteOrder.nativeOrder())"


def _described(tensor: Mapping[str, Any]) -> str:
    layout = f", {tensor['layout']}" if tensor.get("layout") else ""
    if tensor.get("quantization"):
        scale, zero = tensor["quantization"]
        layout += f", real number = {scale:g} * (value - {zero})"
    return f"{tensor['dtype']} {example_shape(tensor)}{layout}"
