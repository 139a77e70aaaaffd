"""What TFLite artifacts compute on the way: every tensor, by LiteRT without delegates."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.signature import Arrays
from crosscast.targets.base import Tap, stripped
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.tflite import FILE
from crosscast.targets.families.tflite_runtime import LiteRtSession

if TYPE_CHECKING:
    from numpy.typing import NDArray

ADDED = re.compile(r"(;.*|_nhwc|_nchw|_padded|_quantized|_dequant|_inner_\d+)$")
"""What onnx2tf and the quantizer add to the name of a value, or of a node's input or output, and
what TensorFlow's converter lists behind the name of the last of the operators that it fused."""


def taps(*, artifact: Path, inputs: Arrays, tell: Callable[[Tap], None]) -> None:
    """Tell every tensor of numbers that the file's main graph computes, in order; of integers the
    real numbers that they stand for.
    """
    made = files.read(artifact / FILE)
    graph = made.subgraphs[0]
    interpreter = LiteRtSession(artifact / FILE).watched(inputs)
    for place, operator in enumerate(graph.operators):
        for index in map(int, operator.outputs):
            array = _real(interpreter, index)
            if array is not None:
                name = files.text(graph.tensors[index].name)
                tell(
                    Tap(
                        name=name,
                        operator=files.operator_name(made, operator),
                        layer=f"operator {place}",
                        called=stripped(name, ADDED),
                        array=array,
                    )
                )


def _real(interpreter: Any, index: int) -> NDArray[Any] | None:
    """A tensor's real numbers; None for a tensor that stands for none."""
    import numpy as np

    try:
        array: NDArray[Any] = interpreter.get_tensor(index)
    except ValueError:  # of a branch that was not taken, or of strings
        return None
    if array.dtype.kind == "f":
        return array
    told = next(one for one in interpreter.get_tensor_details() if one["index"] == index)
    parameters = told["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    if array.dtype.kind not in "iu" or len(scales) != 1:
        return None
    return ((array.astype(np.float64) - int(zeros[0])) * float(scales[0])).astype(np.float32)
