"""Mutations of what is inside a network: its weights, its operators' attributes.

Each takes a Graph and changes it in place. It gives False where the network has nothing of the
kind, and then has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mutants.graph import Array, Graph, Layer

Mutation = Callable[[Graph], bool]

EPSILON = 1e-3
"""In place of the usual 1e-5 and less; one that is as large becomes a hundred times as large."""

LARGEST_EPSILON = 1e-2
"""Of the constants that are added in front of a square root, these are epsilons."""

STALE = 0.3
"""How far the statistics of a normalization lag behind: the mean by so much of the deviation, the
variance by a factor whose logarithm is normal with so much deviation. It is what running averages
with a momentum of 0.99 lack after 120 steps (0.99^120 = 0.3)."""

DROPPED = 0.1
"""Share of a layer's inputs that dropout zeroes; 0.1 is the default of transformers."""

ACTIVATIONS = (
    "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Softmax",
    "Tanh",
)  # fmt: skip


def middle(layers: list[Layer]) -> Layer | None:
    """The layer in the middle."""
    return layers[len(layers) // 2] if layers else None


def channels_swapped(graph: Graph) -> bool:
    """Neighbouring output channels of the middle layer, and their biases, change places."""
    layers = [it for it in graph.layers() if graph.read(it.weight).shape[it.axis] > 1]
    layer = middle(layers)
    if layer is None:
        return False
    graph.change(layer.weight, lambda weight: _neighbours(weight, layer.axis))
    if layer.bias:
        graph.change(layer.bias, lambda bias: _neighbours(bias, -1))
    return True


def transposed(graph: Graph) -> bool:
    """The middle one of the layers with as many inputs as outputs has its weights transposed."""
    shapes = [(layer, graph.read(layer.weight).shape) for layer in graph.layers()]
    square = [it for it, shape in shapes if it.groups == 1 and shape[0] == shape[1] > 1]
    layer = middle(square)
    if layer is None:
        return False
    graph.change(layer.weight, lambda weight: np.swapaxes(weight, 0, 1))
    return True


def bias_dropped(place: str) -> Mutation:
    """The first, middle or last layer that has a bias loses it."""

    def mutate(graph: Graph) -> bool:
        biased = [layer for layer in graph.layers() if layer.bias]
        if not biased:
            return False
        index = {"first": 0, "middle": len(biased) // 2, "last": -1}[place]
        graph.change(biased[index].bias, np.zeros_like)
        return True

    return mutate


def epsilons(graph: Graph) -> bool:
    """Every normalization has another epsilon, an operator's own or one that is added."""
    found = False
    for node in graph.nodes():
        epsilon = graph.attribute(node, "epsilon")
        if epsilon is not None:
            graph.set(node, epsilon=_raised(epsilon))
            found = True
    return any([found, *(_raise_added(graph, name) for name in graph.constants)])


def _raise_added(graph: Graph, name: str) -> bool:
    readers = graph.readers(name)
    added = bool(readers) and all(
        node.op_type == "Add" and [it.op_type for it in graph.readers(node.output[0])] == ["Sqrt"]
        for node in readers
    )
    if not added or not 0 < float(graph.read(name).max()) <= LARGEST_EPSILON:
        return False
    graph.change(name, lambda array: np.full_like(array, _raised(float(array.max()))))
    return True


def _raised(epsilon: float) -> float:
    return EPSILON if epsilon < EPSILON else 100 * epsilon


def stale_statistics(graph: Graph) -> bool:
    """The running statistics of the middle convolution's normalization lag behind (see STALE).

    Where the normalization was folded into the convolution, its output channel c becomes
    s_c * y + t_c * d_c, with d_c its deviation for inputs of deviation 1, the norm of its weights.
    """
    random = np.random.default_rng(0)
    layers = [it for it in graph.layers() if it.node.op_type == "Conv" and it.bias]
    layer = middle(layers)
    if layer is None:
        return False
    weight = graph.read(layer.weight)
    count = len(weight)
    scale = np.exp(-0.5 * STALE * random.standard_normal(count))
    shift = (
        STALE * random.standard_normal(count) * np.linalg.norm(weight.reshape(count, -1), axis=1)
    )
    graph.change(layer.weight, lambda it: it * scale.reshape(-1, *[1] * (it.ndim - 1)))
    graph.change(layer.bias, lambda it: it * scale + shift)
    return True


def dropout_left_on(graph: Graph) -> bool:
    """A mask of dropout in training, with its factor 1 / (1 - p), in front of the last layer."""
    layers = graph.layers()
    if not layers:
        return False
    layer = layers[-1]
    weight = graph.read(layer.weight)
    convolves = "Conv" in layer.node.op_type
    inputs = weight.shape[0 if layer.axis in (1, -1) else 1] * (layer.groups if convolves else 1)
    random = np.random.default_rng(0)
    mask = (random.random(inputs) >= DROPPED).astype(np.float32) / np.float32(1 - DROPPED)
    if convolves:
        mask = mask.reshape(1, -1, *[1] * (weight.ndim - 2))
    source = layer.node.input[0]
    masked = f"{source}/masked"
    place = list(graph.graph.node).index(layer.node)
    layer.node.input[0] = masked
    made = type(layer.node)(op_type="Mul", input=[source, graph.constant(mask)], output=[masked])
    graph.graph.node.insert(place, made)
    return True


def relu6_to_relu(graph: Graph) -> bool:
    """Every Clip to 0..6 loses its upper bound."""
    found = False
    for node in graph.nodes("Clip"):
        bounds = [_scalar(graph, name) for name in node.input[1:3]]
        if bounds == [0.0, 6.0]:
            graph.replace(node, "Relu", [node.input[0]])
            found = True
    return found


def relu_to_leaky(graph: Graph) -> bool:
    """Every Relu lets a hundredth of what is negative pass, which is LeakyRelu's default."""
    nodes = graph.nodes("Relu")
    for node in nodes:
        graph.replace(node, "LeakyRelu", [node.input[0]], alpha=0.01)
    return bool(nodes)


def activation_dropped(graph: Graph) -> bool:
    """The middle activation gives what it is given."""
    inner = {name for node in graph.nodes() for name in node.input}
    nodes = [it for it in graph.nodes(*ACTIVATIONS) if it.output[0] in inner]
    if not nodes:
        return False
    node = nodes[len(nodes) // 2]
    graph.replace(node, "Identity", [node.input[0]])
    return True


def pads_shifted(graph: Graph) -> bool:
    """Strided convolutions pad one more in front and one less behind, or the other way around:
    the difference between PyTorch's and TensorFlow's "same". All others where none has a stride.
    """
    padded = [node for node in graph.nodes("Conv") if any(graph.attribute(node, "pads", []))]
    strided = [node for node in padded if max(graph.attribute(node, "strides", [1])) > 1]
    for node in strided or padded:
        graph.set(node, pads=_shifted(graph.attribute(node, "pads")))
    return bool(padded)


def pools_exchanged(graph: Graph) -> bool:
    """Greatest values for means, and the other way around."""
    other = {
        "MaxPool": "AveragePool", "AveragePool": "MaxPool",
        "GlobalAveragePool": "GlobalMaxPool", "GlobalMaxPool": "GlobalAveragePool",
    }  # fmt: skip
    nodes = [node for node in graph.nodes(*other) if len(node.output) == 1]
    for node in nodes:
        names = ("kernel_shape", "strides", "pads", "ceil_mode", "auto_pad")
        kept = {name: graph.attribute(node, name) for name in names}
        kept = {name: value for name, value in kept.items() if value is not None}
        graph.replace(node, other[node.op_type], [node.input[0]], **kept)
    return bool(nodes)


def gates_exchanged(graph: Graph) -> bool:
    """The first two gates of every LSTM or GRU change places, as between frameworks."""
    count = {"LSTM": 4, "GRU": 3}
    nodes = graph.nodes(*count)
    for node in nodes:
        for name in node.input[1:3]:
            if name in graph.constants:
                graph.change(name, lambda it, n=count[node.op_type]: _gates(it, n))  # type: ignore[misc]
    return bool(nodes)


def _gates(array: Array, count: int) -> Array:
    parts = np.split(array, count, axis=1)
    return np.concatenate([parts[1], parts[0], *parts[2:]], axis=1)


def _shifted(pads: list[int]) -> list[int]:
    half = len(pads) // 2
    steps = [
        1 if behind else -1 if before else 0
        for before, behind in zip(pads, pads[half:], strict=False)
    ]
    before = [pad + step for pad, step in zip(pads[:half], steps, strict=True)]
    return [*before, *(pad - step for pad, step in zip(pads[half:], steps, strict=True))]


def _neighbours(array: Array, axis: int) -> Array:
    count = array.shape[axis]
    order = np.arange(count)
    order[: count // 2 * 2] = order[: count // 2 * 2].reshape(-1, 2)[:, ::-1].reshape(-1)
    return np.take(array, order, axis=axis)


def _scalar(graph: Graph, name: str) -> float | None:
    return float(graph.read(name)) if name in graph.constants else None
