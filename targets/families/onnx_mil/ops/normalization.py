"""Normalizations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import axis_of, known, rank, reshaped, shape, sizes


def batch(node: Node) -> Operand:
    """BatchNormalization as it is after training."""
    node.only("training_mode", 0)
    node.ignore("momentum")
    x, epsilon = node.x(0), np.float32(node.attribute("epsilon", 1e-5))
    gamma, beta, mean, variance = (node.x(index) for index in (1, 2, 3, 4))
    if 3 <= rank(x) <= 5 and all(known(one) for one in (gamma, beta, mean, variance)):
        return node.mb.batch_norm(
            x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=epsilon
        )
    wide = [-1] + [1] * (rank(x) - 2) if rank(x) > 1 else [-1]
    gamma, beta, mean, variance = (_wide(node, one, wide) for one in (gamma, beta, mean, variance))
    spread = node.mb.sqrt(x=node.mb.add(x=variance, y=epsilon))
    scale = node.mb.real_div(x=gamma, y=spread)
    return node.mb.add(x=node.mb.mul(x=node.mb.sub(x=x, y=mean), y=scale), y=beta)


def instance(node: Node) -> Operand:
    """InstanceNormalization."""
    x, epsilon = node.x(0), np.float32(node.attribute("epsilon", 1e-5))
    gamma, beta = node.x(1), node.x(2)
    if rank(x) in (3, 4) and known(gamma) and known(beta):
        return node.mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=epsilon)
    made = normalized(node, x, list(range(2, rank(x))), epsilon)[0]
    wide = [-1] + [1] * (rank(x) - 2)
    return _scaled(node, made, _wide(node, gamma, wide), _wide(node, beta, wide))


def layer(node: Node) -> Operand | tuple[Operand, ...]:
    """LayerNormalization."""
    node.only("stash_type", 1)
    x = node.x(0)
    epsilon = np.float32(node.attribute("epsilon", 1e-5))
    axes = list(range(axis_of(node, node.attribute("axis", -1), rank(x)), rank(x)))
    return _layer(node, x, axes, epsilon, scale=1, bias=2)


def group(node: Node) -> Operand:
    """GroupNormalization: the statistics are those of a group of channels."""
    node.only("stash_type", 1)
    x, groups = node.x(0), int(node.attribute("num_groups"))
    epsilon = np.float32(node.attribute("epsilon", 1e-5))
    channels = shape(x)[1]
    if not isinstance(channels, int) or channels % groups:
        raise node.refused(f"{channels} channels in {groups} groups")
    whole = sizes(node, x)
    flat = reshaped(node, x, [whole[0], groups, -1])
    made = reshaped(node, normalized(node, flat, [2], epsilon)[0], whole)
    gamma, beta = (_of_channels(node, node.x(index), channels, rank(x)) for index in (1, 2))
    return _scaled(node, made, gamma, beta)


def root_mean_square(node: Node) -> Operand:
    """RMSNormalization: x / sqrt(mean(x²) + epsilon) · scale."""
    node.only("stash_type", 1)
    x, epsilon = node.x(0), np.float32(node.attribute("epsilon", 1e-5))
    axes = list(range(axis_of(node, node.attribute("axis", -1), rank(x)), rank(x)))
    return node.mb.mul(x=_root_mean_square(node, x, axes, epsilon), y=node.x(1))


def skip_layer(node: Node) -> Operand:
    """Of ONNX Runtime: LayerNormalization of the sum of two tensors and an optional bias."""
    total = node.mb.add(x=node.x(0), y=node.x(1))
    if node.has(4):
        total = node.mb.add(x=total, y=node.x(4))
    epsilon = np.float32(node.attribute("epsilon", 1e-12))
    return _layer(node, total, [rank(total) - 1], epsilon, scale=2, bias=3)


def skip_root_mean_square(node: Node) -> Operand:
    """Of ONNX Runtime: RMSNormalization of the sum of two tensors and an optional bias."""
    total = node.mb.add(x=node.x(0), y=node.x(1))
    if node.has(3):
        total = node.mb.add(x=total, y=node.x(3))
    epsilon = np.float32(node.attribute("epsilon", 1e-12))
    return node.mb.mul(x=_root_mean_square(node, total, [rank(total) - 1], epsilon), y=node.x(2))


def mean_variance(node: Node) -> Operand:
    """MeanVarianceNormalization: by default over all but the channels."""
    axes = node.attribute("axes", [0, 2, 3])
    return normalized(node, node.x(), axes, np.float32(0), guard=np.float32(1e-9))[0]


def local_response(node: Node) -> Operand:
    """LRN over `size` channels: an odd number is what MIL has for rank 4."""
    x, width = node.x(), int(node.attribute("size"))
    alpha, beta = node.attribute("alpha", 1e-4), node.attribute("beta", 0.75)
    bias = node.attribute("bias", 1.0)
    if width % 2 and rank(x) == 4:
        return node.mb.local_response_norm(
            x=x,
            size=width,
            alpha=np.float32(alpha),
            beta=np.float32(beta),
            k=np.float32(bias),
        )
    channels = shape(x)[1]
    if not isinstance(channels, int):
        raise node.refused("the number of its channels is only known as the model runs")
    weights = response_weights(channels, width) * np.float32(alpha / width)
    squares = reshaped(node, node.mb.square(x=x), [*sizes(node, x)[:2], -1])
    total = reshaped(node, node.mb.matmul(x=weights, y=squares), sizes(node, x))
    spread = node.mb.pow(x=node.mb.add(x=total, y=np.float32(bias)), y=np.float32(beta))
    return node.mb.real_div(x=x, y=spread)


def lp(node: Node) -> Operand:
    """LpNormalization: divided by the norm along one axis; 0 stays 0."""
    x, p = node.x(), node.attribute("p", 2)
    axis = axis_of(node, node.attribute("axis", -1), rank(x))
    if p not in (1, 2):
        raise node.refused(f"attribute p={p} is not supported")
    name = "reduce_l1_norm" if p == 1 else "reduce_l2_norm"
    norm = getattr(node.mb, name)(x=x, axes=[axis], keep_dims=True)
    safe = node.mb.add(
        x=norm, y=node.mb.cast(x=node.mb.equal(x=norm, y=np.float32(0)), dtype="fp32")
    )
    return node.mb.real_div(x=x, y=safe)


def normalized(
    node: Node, x: Operand, axes: Sequence[int], epsilon: Any, *, guard: Any = None
) -> tuple[Operand, Operand, Operand]:
    """The centred and scaled x, the mean, and the inverse of the standard deviation.

    epsilon: is added to the variance. guard: to the standard deviation.
    """
    mb = node.mb
    mean = mb.reduce_mean(x=x, axes=list(axes), keep_dims=True)
    centred = mb.sub(x=x, y=mean)
    variance = mb.reduce_mean(x=mb.square(x=centred), axes=list(axes), keep_dims=True)
    spread = mb.sqrt(x=mb.add(x=variance, y=epsilon))
    if guard is not None:
        spread = mb.add(x=spread, y=guard)
    inverse = mb.real_div(x=np.float32(1), y=spread)
    return mb.mul(x=centred, y=inverse), mean, inverse


def response_weights(channels: int, width: int) -> Any:
    """Which channels each channel's response sums: a matrix of 0 and 1."""
    before, after = (width - 1) // 2, -(-(width - 1) // 2)
    at = np.arange(channels)
    distance = at[None, :] - at[:, None]
    return ((distance >= -before) & (distance <= after)).astype(np.float32)


def _layer(
    node: Node, x: Operand, axes: Sequence[int], epsilon: Any, *, scale: int, bias: int
) -> Operand | tuple[Operand, ...]:
    gamma = node.x(scale)
    beta = node.x(bias) if node.has(bias) else None
    plain = not node.wants(1) and not node.wants(2)
    fits = known(gamma) and (beta is None or known(beta))
    wide = tuple(shape(x)[axis] for axis in axes)
    if plain and fits and gamma.shape == wide and (beta is None or beta.shape == wide):
        given = {} if beta is None else {"beta": beta}
        return node.mb.layer_norm(x=x, axes=list(axes), gamma=gamma, epsilon=epsilon, **given)
    made, mean, inverse = normalized(node, x, axes, epsilon)
    made = node.mb.mul(x=made, y=gamma)
    made = made if beta is None else node.mb.add(x=made, y=beta)
    return (made, mean, inverse)


def _root_mean_square(node: Node, x: Operand, axes: Sequence[int], epsilon: Any) -> Operand:
    mb = node.mb
    square = mb.reduce_mean(x=mb.square(x=x), axes=list(axes), keep_dims=True)
    return mb.real_div(x=x, y=mb.sqrt(x=mb.add(x=square, y=epsilon)))


def _scaled(node: Node, x: Operand, gamma: Operand, beta: Operand) -> Operand:
    return node.mb.add(x=node.mb.mul(x=x, y=gamma), y=beta)


def _wide(node: Node, value: Operand, wide: Sequence[int]) -> Operand:
    return value.reshape(wide) if known(value) else node.mb.reshape(x=value, shape=list(wide))


def _of_channels(node: Node, value: Operand, channels: int, dims: int) -> Operand:
    """A number for each channel; before opset 21 there was one for each group."""
    count = shape(value)[0]
    wide = [channels] + [1] * (dims - 2)
    if count == channels:
        return _wide(node, value, wide)
    if known(value):
        return np.repeat(value, channels // len(value)).reshape(wide)
    tall = node.mb.reshape(x=value, shape=[-1, 1])
    return node.mb.reshape(x=node.mb.tile(x=tall, reps=[1, channels // count]), shape=wide)


TABLE: Mapping[str, Operator] = {
    "BatchNormalization": batch,
    "GroupNormalization": group,
    "InstanceNormalization": instance,
    "LRN": local_response,
    "LayerNormalization": layer,
    "LpNormalization": lp,
    "MeanVarianceNormalization": mean_variance,
    "RMSNormalization": root_mean_square,
    "SimplifiedLayerNormalization": root_mean_square,
    "com.microsoft.SkipLayerNormalization": skip_layer,
    "com.microsoft.SkipSimplifiedLayerNormalization": skip_root_mean_square,
}
