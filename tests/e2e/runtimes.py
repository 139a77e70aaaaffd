"""Artifacts in their own runtimes, without any code of crosscast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def runner(artifact: Path, *, output: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from the artifact's one input, `image`, to an output."""
    if (artifact / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(artifact / "model.onnx")
        return lambda image: session.run([output], {"image": image})[0]  # type: ignore[no-any-return]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifact / "model.tflite"))
    run = interpreter.get_signature_runner()
    return lambda image: run(image=image)[output]  # type: ignore[no-any-return]
