"""float16 weights for a TFLite file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.tflite import FILE
from crosscast.targets.families.tflite_copy import shipped_as_it_is

FLOAT16_LIMIT = 65504.0


def to_float16(
    *,
    model: Path,
    options: Mapping[str, Any],  # noqa: ARG001
    samples: Path | None,  # noqa: ARG001
    out: Path,
) -> None:
    """Write the file with its weights as float16; inputs, outputs and arithmetic stay float32.

    Every matrix and kernel is stored in half precision behind a DEQUANTIZE, which runtimes fold
    or compute with as the device can: recurrent layers too, which ai-edge-quantizer leaves out.
    Vectors (biases) and values beyond float16's range stay as they are.
    """
    if shipped_as_it_is(model, "fp16", out):
        return
    made = files.read(model / FILE)
    cast = sum(_halve(made, graph) for graph in made.subgraphs)
    if not cast:
        raise StageError(
            "the model holds no weights that float16 could store",
            fix="use tflite-fp32 for this model",
        )
    files.prune(made)
    out.mkdir(parents=True, exist_ok=True)
    files.write(made, out / FILE)


def _halve(made: Any, graph: Any) -> int:
    """Store a subgraph's matrices and kernels as float16; their number."""
    import numpy as np

    editor = files.Editor(made, graph)
    casts = []
    for index in sorted(files.constants(made, graph)):
        tensor = graph.tensors[index]
        if files.numpy_name(tensor.type) != "float32" or len(files.signature_of(tensor)) < 2:
            continue
        values = files.data_of(made, tensor).view(np.float32)
        if np.abs(values).max() > FLOAT16_LIMIT or index in graph.outputs:
            continue
        name = f"{files.text(tensor.name)}_float16"
        shape, kind = files.signature_of(tensor), files.tensor_type("float16")
        half = editor.tensor(name, kind, shape, values.astype(np.float16))
        tensor.buffer = 0
        casts.append(editor.operator("DEQUANTIZE", [half], index, version=3))
    graph.operators[:0] = casts
    return len(casts)
