"""How an ONNX artifact is used: from Python, from JavaScript and on Android."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from crosscast.targets.families.markdown import example_shape, names, note

PYTHON = """
import numpy as np
import onnxruntime
from safetensors.numpy import load_file

vectors = load_file("vectors.safetensors")
session = onnxruntime.InferenceSession({path}, providers=["CPUExecutionProvider"])
inputs = {{name: vectors[f"0/in/{{name}}"] for name in {inputs}}}
names = {outputs}
for name, value in zip(names, session.run(names, inputs)):
    expected = vectors[f"0/out/{{name}}"]
    print(name, value.shape, "largest difference:", np.abs(value * 1.0 - expected).max())
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
    "float32": ("Float32Array", "FloatBuffer"),
    "float64": ("Float64Array", "DoubleBuffer"),
    "int32": ("Int32Array", "IntBuffer"),
    "int64": ("BigInt64Array", "LongBuffer"),
}


def usage(*, manifest: Mapping[str, Any]) -> str:
    """USAGE.md: how to run the artifact from its directory."""
    path = json.dumps(manifest["files"][0]["path"])
    inputs, outputs = (json.dumps(names(manifest, key)) for key in ("inputs", "outputs"))
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
            PYTHON.format(path=path, inputs=inputs, outputs=outputs),
        ),
        ("JavaScript (onnxruntime-web, onnxruntime-node)", "js", javascript),
        ("Kotlin (onnxruntime-android)", "kotlin", kotlin),
    )


def _javascript(tensor: Mapping[str, Any]) -> str:
    array = BUFFERS.get(tensor["dtype"], ("Uint8Array", ""))[0]
    shape = example_shape(tensor)
    size = " * ".join(map(str, shape)) or "1"
    return (
        f"  {json.dumps(tensor['name'])}: "
        f'new ort.Tensor("{tensor["dtype"]}", new {array}({size}), {shape}),'
    )


def _kotlin(tensor: Mapping[str, Any]) -> str:
    buffer = BUFFERS.get(tensor["dtype"], ("", "ByteBuffer"))[1]
    shape = example_shape(tensor)
    size = " * ".join(map(str, shape)) or "1"
    dims = ", ".join(map(str, shape))
    return (
        f"{json.dumps(tensor['name'])} to OnnxTensor.createTensor("
        f"environment, {buffer}.allocate({size}), longArrayOf({dims}))"
    )
