"""Activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import (
    axis_of,
    cast,
    kind,
    known,
    rank,
    select,
    shape,
)

SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def plain(name: str) -> Operator:
    """An operator that MIL has under `name`, of one float operand and without attributes."""

    def lowered(node: Node) -> Operand:
        return getattr(node.mb, name)(x=node.x())

    return lowered


def with_alpha(name: str, default: float) -> Operator:
    """An activation with `alpha`, which MIL has under `name`."""

    def lowered(node: Node) -> Operand:
        return getattr(node.mb, name)(x=node.x(), alpha=_number(node, "alpha", default))

    return lowered


def relu(node: Node) -> Operand:
    """max(x, 0), of integers too."""
    if kind(node.x()) == "fp32":
        return node.mb.relu(x=node.x())
    return node.mb.maximum(x=node.x(), y=np.int32(0))


def selu(node: Node) -> Operand:
    """Gamma · elu(x)."""
    alpha, gamma = _number(node, "alpha", SELU[0]), _number(node, "gamma", SELU[1])
    return node.mb.mul(x=node.mb.elu(x=node.x(), alpha=alpha), y=gamma)


def celu(node: Node) -> Operand:
    """max(0, x) + min(0, alpha · (exp(x / alpha) - 1))."""
    alpha = _number(node, "alpha", 1.0)
    scaled = node.mb.real_div(x=node.x(), y=alpha)
    return node.mb.mul(x=node.mb.elu(x=scaled, alpha=np.float32(1)), y=alpha)


def hard_sigmoid(node: Node) -> Operand:
    """max(0, min(1, alpha · x + beta))."""
    alpha, beta = _number(node, "alpha", 0.2), _number(node, "beta", 0.5)
    return node.mb.sigmoid_hard(x=node.x(), alpha=alpha, beta=beta)


def hard_swish(node: Node) -> Operand:
    """X · hard_sigmoid(x) with 1/6 and 1/2."""
    x = node.x()
    gate = node.mb.sigmoid_hard(x=x, alpha=np.float32(1 / 6), beta=np.float32(0.5))
    return node.mb.mul(x=x, y=gate)


def gelu(node: Node) -> Operand:
    """Exact, or by tanh."""
    way = node.attribute("approximate", "none")
    modes = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}
    if way not in modes:
        raise node.refused(f"attribute approximate={way} is not supported")
    return node.mb.gelu(x=node.x(), mode=modes[way])


def fast_gelu(node: Node) -> Operand:
    """Of ONNX Runtime: by tanh, of x plus an optional bias."""
    x = node.mb.add(x=node.x(0), y=node.x(1)) if node.has(1) else node.x(0)
    return node.mb.gelu(x=x, mode="TANH_APPROXIMATION")


def bias_gelu(node: Node) -> Operand:
    """Of ONNX Runtime: exact, of x plus a bias."""
    return node.mb.gelu(x=node.mb.add(x=node.x(0), y=node.x(1)), mode="EXACT")


def quick_gelu(node: Node) -> Operand:
    """X · sigmoid(alpha · x)."""
    scaled = node.mb.mul(x=node.x(), y=_number(node, "alpha", 1.702))
    return node.mb.mul(x=node.x(), y=node.mb.sigmoid(x=scaled))


def swish(node: Node) -> Operand:
    """X · sigmoid(alpha · x), alpha 1 by default."""
    alpha = _number(node, "alpha", 1.0)
    scaled = node.x() if alpha == 1 else node.mb.mul(x=node.x(), y=alpha)
    return node.mb.mul(x=node.x(), y=node.mb.sigmoid(x=scaled))


def mish(node: Node) -> Operand:
    """X · tanh(softplus(x))."""
    return node.mb.mul(x=node.x(), y=node.mb.tanh(x=node.mb.softplus(x=node.x())))


def thresholded(node: Node) -> Operand:
    """X where x > alpha, else 0."""
    alpha = _number(node, "alpha", 1.0)
    above = node.mb.greater(x=node.x(), y=alpha)
    return select(node, above, node.x(), np.float32(0))


def shrink(node: Node) -> Operand:
    """X - bias above lambd, x + bias below -lambd, else 0."""
    mb, x = node.mb, node.x()
    limit, bias = _number(node, "lambd", 0.5), _number(node, "bias", 0.0)
    low = select(node, mb.less(x=x, y=-limit), mb.add(x=x, y=bias), np.float32(0))
    return select(node, mb.greater(x=x, y=limit), mb.sub(x=x, y=bias), low)


def prelu(node: Node) -> Operand:
    """X above 0, slope · x below; one slope for each channel is what MIL has an operator for."""
    x, slope = node.x(0), node.x(1)
    if kind(x) == "fp32" and known(slope) and 3 <= rank(x) <= 5 and _of_channels(slope, x):
        return node.mb.prelu(x=x, alpha=slope.reshape(-1))
    zero: Any = np.float32(0) if kind(x) == "fp32" else np.int32(0)
    return select(node, node.mb.less(x=x, y=zero), node.mb.mul(x=x, y=slope), x)


def softmax(node: Node) -> Operand:
    """Along one axis."""
    return node.mb.softmax(x=node.x(), axis=_axis(node))


def log_softmax(node: Node) -> Operand:
    """Along one axis, without the underflow of the logarithm of a softmax."""
    mb, axis = node.mb, _axis(node)
    centred = mb.sub(x=node.x(), y=mb.reduce_max(x=node.x(), axes=[axis], keep_dims=True))
    total = mb.reduce_sum(x=mb.exp(x=centred), axes=[axis], keep_dims=True)
    return mb.sub(x=centred, y=mb.log(x=total, epsilon=np.float32(0)))


def hardmax(node: Node) -> Operand:
    """1 at the first of the greatest elements along one axis, else 0."""
    x, axis = node.x(), _axis(node)
    count = shape(x)[axis]
    if not isinstance(count, int):
        raise node.refused("the size of its axis is only known as the model runs")
    best = node.mb.reduce_argmax(x=x, axis=axis, keep_dims=True)
    places = np.arange(count, dtype=np.int32).reshape([-1] + [1] * (rank(x) - 1 - axis))
    return cast(node, node.mb.equal(x=best, y=places), "fp32")


def _axis(node: Node) -> int:
    return axis_of(node, node.attribute("axis", -1), rank(node.x()))


def _number(node: Node, name: str, default: float) -> Any:
    return np.float32(node.attribute(name, default))


def _of_channels(slope: Any, x: Operand) -> bool:
    """Whether a constant has one number for each element of axis 1 of x."""
    channels = shape(x)[1]
    wide = (1,) * (rank(x) - slope.ndim) + slope.shape
    return len(wide) == rank(x) and slope.size == channels == wide[1]


TABLE: Mapping[str, Operator] = {
    "Celu": celu,
    "Elu": with_alpha("elu", 1.0),
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Hardmax": hardmax,
    "LeakyRelu": with_alpha("leaky_relu", 0.01),
    "LogSoftmax": log_softmax,
    "Mish": mish,
    "PRelu": prelu,
    "Relu": relu,
    "Selu": selu,
    "Shrink": shrink,
    "Sigmoid": plain("sigmoid"),
    "Softmax": softmax,
    "Softplus": plain("softplus"),
    "Softsign": plain("softsign"),
    "Swish": swish,
    "Tanh": plain("tanh"),
    "ThresholdedRelu": thresholded,
    "com.microsoft.BiasGelu": bias_gelu,
    "com.microsoft.FastGelu": fast_gelu,
    "com.microsoft.Gelu": gelu,
    "com.microsoft.QuickGelu": quick_gelu,
}
