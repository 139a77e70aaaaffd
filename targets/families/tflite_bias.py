"""Weights of a TFLite file whose errors in int8 cancel, and biases that take back what is left on
average: see `onnx_bias`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.rounding import LEVELS
from crosscast.targets.families.tflite_compensation import compensated
from crosscast.targets.families.tflite_dynamic import HYBRID, rounded
from crosscast.targets.families.tflite_samples import calibration
from crosscast.targets.families.tflite_sensitivity import values

if TYPE_CHECKING:
    from numpy.typing import NDArray


def corrected(content: bytes, samples: Path) -> bytes:
    """The float file whose weights and biases are made for int8, by the samples."""
    exact = files.parse(content)
    copy = bytearray(compensated(content, samples))
    made = files.parse(copy)
    graph = made.subgraphs[0]
    served = [operator for operator in graph.operators if _is_served(made, graph, operator)]
    means = _means(content, sorted({int(operator.inputs[0]) for operator in served}), samples)
    holders = Counter(graph.tensors[int(operator.inputs[2])].buffer for operator in served)
    for operator in served:
        tensor = graph.tensors[operator.inputs[2]]
        if holders[tensor.buffer] == 1:
            bias = files.data_of(made, tensor).view("float32")
            name, mean = files.operator_name(made, operator), means[int(operator.inputs[0])]
            before, after = (_weights(model, operator) for model in (exact, made))
            bias -= _offset(name, _error(name, before, after), mean)
    return bytes(copy)


def _is_served(made: Any, graph: Any, operator: Any) -> bool:
    """Whether an operator has constant weights and a constant bias in floats."""
    if files.operator_name(made, operator) not in HYBRID or len(operator.inputs) < 3:
        return False
    indices = [int(index) for index in operator.inputs[1:3]]
    return min(indices) >= 0 and all(
        files.data_of(made, graph.tensors[index]) is not None
        and files.numpy_name(graph.tensors[index].type) == "float32"
        for index in indices
    )


def _means(content: bytes, indices: Sequence[int], samples: Path) -> dict[int, NDArray[Any]]:
    """The mean of each channel, the last axis, of those tensors."""
    import numpy as np

    sums: dict[int, Any] = dict.fromkeys(indices, 0.0)
    counts = Counter[int]()
    for index, value in values(content, indices, lambda: calibration(samples)):
        rows = value.reshape(-1, value.shape[-1])
        sums[index] = sums[index] + rows.mean(axis=0, dtype=np.float64)
        counts[index] += 1
    return {index: sums[index] / counts[index] for index in counts}


def _weights(made: Any, operator: Any) -> NDArray[Any]:
    tensor = made.subgraphs[0].tensors[operator.inputs[1]]
    weights: NDArray[Any] = files.data_of(made, tensor).view("float32")
    return weights.reshape(files.signature_of(tensor))


def _offset(name: str, error: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
    """The mean of what the errors of an operator's weights add, by output channel."""
    import numpy as np

    offset: NDArray[Any]
    if name == "DEPTHWISE_CONV_2D":
        by_channel = error.reshape(-1, error.shape[-1]).sum(axis=0)
        offset = by_channel * np.repeat(mean, by_channel.size // mean.size)
    elif name == "FULLY_CONNECTED":
        # what it reads may have other last axes than its weights, which it flattens
        offset = error @ mean if mean.size == error.shape[1] else np.zeros(error.shape[0])
    else:
        by_pair = error.reshape(error.shape[0], -1, error.shape[-1]).sum(axis=1)
        groups = mean.size // by_pair.shape[1]
        by_group = by_pair.reshape(groups, -1, by_pair.shape[1])
        offset = (by_group @ mean.reshape(groups, -1, 1)).reshape(-1)
    return offset


def _error(name: str, exact: NDArray[Any], given: NDArray[Any]) -> NDArray[Any]:
    """What int8 adds to `exact` weights that were `given` to it in their place; float64."""
    import numpy as np

    kept = rounded(name, given)
    others = tuple(place for place in range(kept.ndim) if place != HYBRID[name])
    scale = np.abs(kept).max(axis=others, keepdims=True) / LEVELS
    scale = np.where(scale > 0, scale, 1.0)
    levels = np.clip(np.rint(kept / scale), -LEVELS, LEVELS)
    error: NDArray[Any] = (levels * scale - exact).astype(np.float64)
    return error
