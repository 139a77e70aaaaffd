"""Weights for the graphs of the ONNX model zoo that onnx ships without: random, but such that the
signal lives through all layers and differs from photo to photo.

Layer by layer, weights are drawn and then set by what photos give there: each channel gets a mean
of 0 and the layer a spread of 1 (the idea of "All you need is a good init", Mishkin and Matas,
2016, with the means beside the spreads). Without that, deep random networks answer all inputs
alike, and agreeing with them would prove nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Arrays = list[NDArray[Any]]
"""A tensor's values for each of the photos."""


def randomise(source: Path, made: Path, photos: Sequence[NDArray[Any]]) -> None:
    """Write the graph `source` with weights. photos: float32[1, 3, H, W] as it takes them."""
    model = onnx.load(source)
    graph = model.graph
    model.ir_version = max(model.ir_version, 4)  # from there on a weight may be no input
    random = np.random.default_rng(0)
    values: dict[str, Arrays] = {
        one.name: [numpy_helper.to_array(one)] * len(photos) for one in graph.initializer
    }
    values |= {one.name: list(photos) for one in graph.input if one.name not in values}
    for node in list(graph.node):
        if node.op_type == "ConstantOfShape":
            shape = tuple(int(size) for size in values[node.input[0]][0])
            values[node.output[0]] = [_first(shape, random)] * len(photos)
            continue
        if node.op_type in ("Conv", "Gemm"):
            _set_layer(node, values, model)
        elif node.op_type == "BatchNormalization":
            _set_norm(node, values, random)
        values |= _computed(node, values, model)
    _write(graph, values)
    made.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, made)


def _write(graph: Any, values: dict[str, Arrays]) -> None:
    """Put the weights into the graph, also those that it reshapes before a layer reads them."""
    known = {one.name for one in graph.initializer}
    for node in list(graph.node):
        reshaped = node.op_type == "Reshape" and known.issuperset(node.input)
        if node.op_type == "ConstantOfShape" or reshaped:
            known.add(node.output[0])
            graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    weights = [numpy_helper.from_array(values[name][0], name) for name in sorted(known & used)]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    for one in list(graph.input):
        if one.name in known:
            graph.input.remove(one)


def _first(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    """Weights before their layer is seen: vectors near 1 (factors), the others of He's spread."""
    if len(shape) < 2:
        return random.uniform(0.7, 1.3, shape).astype(np.float32)
    inputs = int(np.prod(shape[1:])) if len(shape) > 2 else max(shape)
    return random.normal(0, np.sqrt(2 / inputs), shape).astype(np.float32)


def _set_layer(node: Any, values: dict[str, Arrays], model: Any) -> None:
    """Scale a layer's weights, and set its bias, by what the photos give.

    A matrix product keeps its means: a few photos differ little in what it reads, and to make that
    all of its answer would amplify rounding as well.
    """
    has_bias = len(node.input) > 2
    if has_bias:
        _replace(values, node.input[2], np.zeros_like(values[node.input[2]][0]))
    found = np.concatenate(_computed(node, values, model)[node.output[0]])
    means = _by_channel(found) * (node.op_type == "Conv")
    spread = float((found - means.reshape(1, -1, *[1] * (found.ndim - 2))).std()) or 1.0
    _replace(values, node.input[1], values[node.input[1]][0] / np.float32(spread))
    if has_bias:
        bias = values[node.input[2]][0]
        _replace(values, node.input[2], (-means / spread).astype(np.float32).reshape(bias.shape))


def _set_norm(node: Any, values: dict[str, Arrays], random: np.random.Generator) -> None:
    """Give a batch normalization the statistics of what it reads, no offset of its own, and a
    factor below 1: residual branches as strong as what they are added to would amplify rounding
    from block to block, which those of trained networks do not.
    """
    _replace(values, node.input[1], random.uniform(0.2, 0.6, values[node.input[1]][0].shape))
    found = np.concatenate(values[node.input[0]])
    axes = (0, *range(2, found.ndim))
    _replace(values, node.input[2], np.zeros_like(values[node.input[2]][0]))
    _replace(values, node.input[3], _by_channel(found))
    _replace(values, node.input[4], found.var(axis=axes).astype(np.float32))


def _by_channel(found: NDArray[Any]) -> NDArray[Any]:
    means = found.mean(axis=(0, *range(2, found.ndim)))
    return np.asarray(means, np.float32)


def _replace(values: dict[str, Arrays], name: str, array: NDArray[Any]) -> None:
    values[name] = [np.ascontiguousarray(array, np.float32)] * len(values[name])


def _computed(node: Any, values: dict[str, Arrays], model: Any) -> dict[str, Arrays]:
    """The outputs of one node for each of the photos."""
    names = [name for name in dict.fromkeys(node.input) if name]
    inputs = [helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(values[name][0].dtype), None) for name in names
    ]  # fmt: skip
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    alone = helper.make_graph([node], "one", inputs, outputs)
    single = helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(single.SerializeToString())
    rows = [
        session.run(None, {name: values[name][index] for name in names})
        for index in range(len(next(iter(values.values()))))
    ]
    return {one.name: [row[place] for row in rows] for place, one in enumerate(outputs)}
