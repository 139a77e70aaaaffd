"""SavedModel trees, and what steps that run TensorFlow have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.toolchain import Toolchain

SAVED_MODEL = "saved_model"
SIGNATURE = "signature.json"
SERVING = "serving_default"

PRELOAD = (
    "crosscast.targets.families.tensorflow_import",
    "tensorflow.lite.python.lite",
    "numpy",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "ai_edge_litert.schema_py_generated",
)

TFLITE = Toolchain(
    name="tflite-converter",
    preload=PRELOAD,
    distributions=("tensorflow", "ai-edge-litert", "flatbuffers", "numpy"),
    extra="tensorflow,tflite",
)

_PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def framework() -> Any:
    """TensorFlow, ready to compute in one thread, so that sums are taken in one order.

    A process in which it has computed before keeps the threads that it has.
    """
    from crosscast.targets.families.tensorflow_import import tensorflow as tf

    return tf


def keys(tensors: Sequence[Tensor], side: str) -> tuple[str, ...]:
    """The names of inputs or outputs within a SavedModel tree: their own, or "input_0",
    "input_1" … where one of them is none that TensorFlow can write.

    side: "input" or "output".
    """
    names = tuple(tensor.name for tensor in tensors)
    if all(_PLAIN.fullmatch(name) for name in names):
        return names
    return tuple(f"{side}_{index}" for index in range(len(names)))


def read_signature(tree: Path) -> Signature:
    """The inputs and outputs of a tree, in order and in the delivered layout."""
    return Signature.from_json(json.loads((tree / SIGNATURE).read_text(encoding="utf-8")))
