"""How an ONNX artifact is used: from Python, from JavaScript and on Android."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from crosscast.pipeline.signature import STRING
from crosscast.targets.families import preprocessing
from crosscast.targets.families.markdown import example_shape, names, note

PYTHON = """
import numpy as np
import onnxruntime
from safetensors.numpy import load_file

vectors = load_file("vectors.safetensors")
session = onnxruntime.InferenceSession({path}, providers=["CPUExecutionProvider"])
inputs = {{name: vectors[f"0/in/{{name}}"] for name in {inputs}}}{halves}
names = {outputs}
for name, value in zip(names, session.run(names, inputs)):
    expected = vectors[f"0/out/{{name}}"]
    print(name, value.shape, "largest difference:", np.abs(value * 1.0 - expected).max())
"""
PYTHON_STRINGS = """
import numpy as np
import onnxruntime
from safetensors.numpy import load_file


def text(stored):  # strings are stored as UTF-8, padded with zeros along the last axis
    rows = stored.reshape(-1, stored.shape[-1])
    strings = [row.tobytes().rstrip(b"\\0").decode() for row in rows]
    return np.array(strings, dtype=object).reshape(stored.shape[:-1])


vectors = load_file("vectors.safetensors")
for name in {strings}:
    vectors |= {{key: text(vectors[key]) for key in vectors if key.endswith("/" + name)}}
session = onnxruntime.InferenceSession({path}, providers=["CPUExecutionProvider"])
inputs = {{name: vectors[f"0/in/{{name}}"] for name in {inputs}}}
names = {outputs}
for name, value in zip(names, session.run(names, inputs)):
    expected = vectors[f"0/out/{{name}}"]
    print(name, value.shape, "share of equal values:", np.isclose(value, expected).mean()
          if value.dtype != object else (value == expected).mean())
"""
JAVASCRIPT = """
import * as ort from "onnxruntime-web";

const session = await ort.InferenceSession.create({path});
const outputs = await session.run({{
{feeds}
}});
console.log({outputs}.map((name) => outputs[name].dims));
"""
KOTLIN = """
val environment = OrtEnvironment.getEnvironment()
val session = environment.createSession(modelPath) // com.microsoft.onnxruntime:onnxruntime-android
val outputs = session.run(mapOf({feeds}))
{outputs}.forEach {{ println(outputs[it].get().info) }}
"""
BUFFERS = {
    "float16": ("Uint16Array", "ShortBuffer"),
    "float32": ("Float32Array", "FloatBuffer"),
    "float64": ("Float64Array", "DoubleBuffer"),
    "int32": ("Int32Array", "IntBuffer"),
    "int64": ("BigInt64Array", "LongBuffer"),
}


def usage(*, manifest: Mapping[str, Any]) -> str:
    """USAGE.md: how to run the artifact from its directory."""
    path = json.dumps(manifest["files"][0]["path"])
    inputs, outputs = (json.dumps(names(manifest, key)) for key in ("inputs", "outputs"))
    tensors = (*manifest["inputs"], *manifest["outputs"])
    strings = [tensor["name"] for tensor in tensors if tensor["dtype"] == STRING]
    javascript = JAVASCRIPT.format(
        path=path,
        feeds="\n".join(_javascript(tensor) for tensor in manifest["inputs"]),
        outputs=outputs,
    )
    kotlin = KOTLIN.format(
        feeds=", ".join(_kotlin(tensor) for tensor in manifest["inputs"]),
        outputs=f"listOf({outputs[1:-1]})",
    )
    return note(
        manifest,
        (
            "Python (onnxruntime, safetensors)",
            "python",
            (PYTHON_STRINGS if strings else PYTHON).format(
                path=path,
                inputs=inputs,
                outputs=outputs,
                strings=json.dumps(strings),
                halves=_halves(manifest),
            ),
        ),
        ("JavaScript (onnxruntime-web, onnxruntime-node)", "js", javascript),
        ("Kotlin (onnxruntime-android)", "kotlin", kotlin),
        *preprocessing.blocks(manifest, "python", "js", "kotlin"),
    )


def _halves(manifest: Mapping[str, Any]) -> str:
    """The line that makes float16 of the inputs that are; nothing where none is."""
    found = [tensor["name"] for tensor in manifest["inputs"] if tensor["dtype"] == "float16"]
    if not found or manifest.get("io") != "float16":
        return ""
    return (
        f"\nfor name in {json.dumps(found)}:  # the vectors are the source's, in float32\n"
        "    inputs[name] = inputs[name].astype(np.float16)"
    )


def _size(tensor: Mapping[str, Any]) -> int:
    return prod(example_shape(tensor))


def _sample(tensor: Mapping[str, Any]) -> str:
    """A string that the input takes, for the snippets."""
    return next(filter(None, tensor.get("values") or ()), "text")


def _javascript(tensor: Mapping[str, Any]) -> str:
    if tensor["dtype"] == STRING:
        texts = f"new Array({_size(tensor)}).fill({json.dumps(_sample(tensor))})"
        return (
            f"  {json.dumps(tensor['name'])}: "
            f'new ort.Tensor("string", {texts}, {example_shape(tensor)}),'
        )
    array = BUFFERS.get(tensor["dtype"], ("Uint8Array", ""))[0]
    shape = example_shape(tensor)
    size = " * ".join(map(str, shape)) or "1"
    return (
        f"  {json.dumps(tensor['name'])}: "
        f'new ort.Tensor("{tensor["dtype"]}", new {array}({size}), {shape}),'
    )


def _kotlin(tensor: Mapping[str, Any]) -> str:
    if tensor["dtype"] == STRING:
        dims = ", ".join(map(str, example_shape(tensor)))
        texts = f"Array({_size(tensor)}) {{ {json.dumps(_sample(tensor))} }}"
        return (
            f"{json.dumps(tensor['name'])} to OnnxTensor.createTensor("
            f"environment, {texts}, longArrayOf({dims}))"
        )
    buffer = BUFFERS.get(tensor["dtype"], ("", "ByteBuffer"))[1]
    shape = example_shape(tensor)
    size = " * ".join(map(str, shape)) or "1"
    dims = ", ".join(map(str, shape))
    kind = ", OnnxJavaType.FLOAT16" if tensor["dtype"] == "float16" else ""
    return (
        f"{json.dumps(tensor['name'])} to OnnxTensor.createTensor("
        f"environment, {buffer}.allocate({size}), longArrayOf({dims}){kind})"
    )
