"""Weights of an ONNX graph, rounded so that their errors cancel: see `compensation`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from crosscast.targets.families import compensation, onnx_weights, sensitivity
from crosscast.targets.families.compensation import LONGEST, Window
from crosscast.targets.families.onnx_calibrate import Samples, run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto


class Weight(NamedTuple):
    """A constant that nodes multiply by, all in the same way, and how it is laid out.

    groups: of a convolution. turned: whether output channels come last.
    """

    values: NDArray[Any]
    nodes: list[NodeProto]
    groups: int
    turned: bool

    @property
    def filters(self) -> NDArray[Any]:
        """[groups, filters of a group, length]."""
        values = self.values.T if self.turned else self.values
        return values.reshape(self.groups, values.shape[0] // self.groups, -1)

    def laid_out(self, filters: NDArray[Any]) -> NDArray[Any]:
        """Other filters in the shape of these values."""
        if self.turned:
            return filters.reshape(self.values.shape[::-1]).T.copy()
        return filters.reshape(self.values.shape)


def compensated(
    model: ModelProto, samples: Samples, *, wanted: Callable[[NodeProto], bool]
) -> dict[str, NDArray[Any]]:
    """The weights of the `wanted` nodes of a float model, on the steps of int8, by name; those
    alone whose nodes are convolutions or matrix products.
    """
    places = sensitivity.spread(sum(1 for _ in samples()))
    weights = _weights(model, wanted)
    fitted = compensation.fitted(weights, lambda part: _correlations(model, part, samples, places))
    return {name: weights[name].laid_out(filters) for name, filters in fitted}


def _weights(model: ModelProto, wanted: Callable[[NodeProto], bool]) -> dict[str, Weight]:
    from onnx import numpy_helper

    own = onnx_weights.floats(model.graph)
    found: dict[str, Weight] = {}
    for node in filter(wanted, model.graph.node):
        tensor = own.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if tensor is None or not onnx_weights.worth(tensor):
            continue
        if tensor.name in found:
            found[tensor.name].nodes.append(node)
        elif weight := _weight(node, numpy_helper.to_array(tensor)):
            found[tensor.name] = weight
    return found


def _weight(node: NodeProto, values: NDArray[Any]) -> Weight | None:
    """What a node multiplies by, where that is served."""
    is_conv = node.op_type == "Conv"
    if not is_conv and (values.ndim != 2 or onnx_weights.attribute(node, "transA", 0)):
        return None
    groups = int(onnx_weights.attribute(node, "group", 1)) if is_conv else 1
    turned = not is_conv and not onnx_weights.attribute(node, "transB", 0)
    weight = Weight(values, [node], groups, turned)
    return weight if weight.filters.shape[2] <= LONGEST else None


def _correlations(
    model: ModelProto, weights: dict[str, Weight], samples: Samples, places: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """How what each weight is multiplied by goes together, over the samples at `places`."""
    watched, names = _watching(model, weights.values())
    totals: dict[str, NDArray[Any]] = {}
    for values in run(watched, lambda: sensitivity.at(samples(), places)):
        read = dict(zip(names, values, strict=True))
        for name, weight in weights.items():
            most = compensation.rows_of(weight.filters.shape[2], len(places) * len(weight.nodes))
            for node in weight.nodes:
                rows = _rows(node, weight, read[node.input[0]], most)
                totals[name] = totals.get(name, 0.0) + compensation.gram(rows, weight.groups)
    return totals


def _watching(model: ModelProto, weights: Iterable[Weight]) -> tuple[ModelProto, list[str]]:
    """The model whose outputs are what those weights are multiplied by, and their names."""
    import onnx

    watched = onnx_weights.copied(model)
    del watched.graph.output[:]
    names = list(dict.fromkeys(node.input[0] for weight in weights for node in weight.nodes))
    for name in names:
        seen = f"{name}/compensation"
        watched.graph.node.append(onnx.helper.make_node("Identity", [name], [seen]))
        watched.graph.output.append(onnx.helper.make_tensor_value_info(seen, 1, None))
    return watched, names


def _rows(node: NodeProto, weight: Weight, value: NDArray[Any], most: int) -> NDArray[Any]:
    """What filters are multiplied by, one row for each time."""
    if node.op_type != "Conv":
        return compensation.some(value.reshape(-1, weight.filters.shape[2]), most)
    return compensation.patches(value, _window(node, weight.values, value), most)


def _window(node: NodeProto, values: NDArray[Any], read: NDArray[Any]) -> Window:
    kernel = values.shape[2:]
    ones = [1] * len(kernel)
    pads = onnx_weights.attribute(node, "pads", [0] * 2 * len(kernel))
    window = Window(
        kernel,
        onnx_weights.attribute(node, "strides", ones),
        onnx_weights.attribute(node, "dilations", ones),
        list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)),
    )
    padding = onnx_weights.attribute(node, "auto_pad", b"NOTSET")
    if padding in (b"SAME_UPPER", b"SAME_LOWER"):
        return compensation.same(read.shape[2:], window, upper=padding == b"SAME_UPPER")
    return window
