"""The model zoo's graphs that the onnx package ships for its own tests, given weights.

Their weights are constants, so that they are small: every input then has the same answer, and a
comparison would prove nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def randomised(source: Path, target: Path, *, seed: int = 0) -> Path:
    """Write the graph of `source` with seeded weights that keep signals alive."""
    import onnx

    model = onnx.load(source)
    random = np.random.default_rng(seed)
    readers = {
        name: (node.op_type, index)
        for node in model.graph.node
        for index, name in enumerate(node.input)
    }
    # Sums of residuals grow from block to block, unless each adds less than there is.
    gain = 0.5 if any(node.op_type == "Sum" for node in model.graph.node) else 1.2
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape"]:
        name, shape = node.output[0], tuple(map(int, shapes[node.input[0]]))
        values = weights(random, shape, *through(model, name, readers), gain=gain)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, list(shape)))
        model.graph.node.remove(node)
    calm(model)
    onnx.save(model, target)
    return target


def calm(model: Any) -> None:
    """Scale the last layer so that a softmax of its answers is no one-hot vector."""
    import onnx
    import onnxruntime

    nodes = list(model.graph.node)
    last = next(node for node in reversed(nodes) if node.op_type in ("Conv", "Gemm"))
    logits = last.output[0]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_tensor_value_info(logits, 1, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    given = next(v.name for v in model.graph.input if v.name not in weights)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
    spread = float(session.run([logits], {given: image})[0].std())
    for name in last.input[1:]:
        values = onnx.numpy_helper.to_array(weights[name]) / spread
        weights[name].CopyFrom(onnx.numpy_helper.from_array(values, name))


def through(model: Any, name: str, readers: dict[str, tuple[str, int]]) -> tuple[str, int]:
    """The operator that reads a weight, an Unsqueeze between them or not, and as which input."""
    operator, index = readers.get(name, ("", 0))
    if operator == "Unsqueeze":
        node = next(node for node in model.graph.node if name in node.input)
        return readers.get(node.output[0], ("", 0))
    return operator, index


def weights(random: Any, shape: tuple[int, ...], operator: str, index: int, *, gain: float) -> Any:
    """What an operator bears as its input of that number."""
    if operator in ("Conv", "Gemm") and index == 1:
        fan_in = int(np.prod(shape[1:]))
        return random.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
    if operator == "BatchNormalization" and index == 1:
        return (gain * random.uniform(0.7, 1.3, shape)).astype(np.float32)
    if operator in ("BatchNormalization", "Mul") and index in (1, 4):
        return random.uniform(0.7, 1.3, shape).astype(np.float32)
    return random.uniform(-0.1, 0.1, shape).astype(np.float32)
