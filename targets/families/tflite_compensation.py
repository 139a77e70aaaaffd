"""Weights of a TFLite file, rounded so that their errors cancel: see `compensation`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crosscast.targets.families import compensation, sensitivity
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.compensation import LONGEST, Window
from crosscast.targets.families.tflite_dynamic import HYBRID, LEAST
from crosscast.targets.families.tflite_samples import calibration
from crosscast.targets.families.tflite_sensitivity import values

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME = 0
"""Padding in the file's schema; the other is none."""


class Weight(NamedTuple):
    """A constant that operators of one name multiply by. groups: of a convolution."""

    name: str
    values: NDArray[Any]
    operators: list[Any]
    groups: int

    @property
    def filters(self) -> NDArray[Any]:
        """[groups, filters of a group, length], a filter's channels before its kernel."""
        if self.name == "FULLY_CONNECTED":
            return self.values[None]
        order = (0, 3, 1, 2) if self.name == "CONV_2D" else (3, 0, 1, 2)
        moved = self.values.transpose(order)
        return moved.reshape(self.groups, moved.shape[0] // self.groups, -1)

    def write(self, filters: NDArray[Any]) -> None:
        """Put other filters in the place of these values."""
        if self.name == "FULLY_CONNECTED":
            self.values[...] = filters[0]
            return
        out, height, width, depth = self.values.shape
        if self.name == "CONV_2D":
            self.values[...] = filters.reshape(out, depth, height, width).transpose(0, 2, 3, 1)
        else:
            self.values[...] = filters.reshape(depth, out, height, width).transpose(1, 2, 3, 0)


def compensated(content: bytes, samples: Path) -> bytes:
    """The float file with the weights of its hybrid operators on the steps of int8."""
    places = sensitivity.spread(sum(1 for _ in calibration(samples)))
    copy = bytearray(content)
    made = files.parse(copy)
    weights = _weights(made, made.subgraphs[0])
    fitted = compensation.fitted(
        weights, lambda part: _correlations(content, part, samples, places)
    )
    for buffer, filters in fitted:
        weights[buffer].write(filters)
    return bytes(copy)


def _weights(made: Any, graph: Any) -> Mapping[int, Weight]:
    """What is served, by buffer: what only operators of one kind read, as their weights."""
    readers = Counter(
        graph.tensors[index].buffer
        for operator in graph.operators
        for index in operator.inputs
        if index >= 0
    )
    found: dict[int, Weight] = {}
    for operator in graph.operators:
        name = files.operator_name(made, operator)
        if name not in HYBRID:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        data = files.data_of(made, tensor)
        if data is None or files.numpy_name(tensor.type) != "float32":
            continue
        if tensor.buffer in found and found[tensor.buffer].name == name:
            found[tensor.buffer].operators.append(operator)
        elif weight := _weight(graph, operator, name, data):
            found.setdefault(tensor.buffer, weight)
    return {key: one for key, one in found.items() if len(one.operators) == readers[key]}


def _weight(graph: Any, operator: Any, name: str, data: Any) -> Weight | None:
    tensor, source = (graph.tensors[index] for index in (operator.inputs[1], operator.inputs[0]))
    array = data.view("float32").reshape(files.signature_of(tensor))
    depth = files.signature_of(source)[-1]
    groups = 1
    if name == "CONV_2D":
        groups = depth // array.shape[3]
    elif name == "DEPTHWISE_CONV_2D":
        groups = depth
    if array.size < LEAST or groups < 1:
        return None
    weight = Weight(name, array, [operator], groups)
    return weight if weight.filters.shape[2] <= LONGEST else None


def _correlations(
    content: bytes, weights: Mapping[int, Weight], samples: Path, places: Sequence[int]
) -> dict[int, Any]:
    """How what each weight, by its buffer, is multiplied by goes together, over those samples."""
    reading: dict[int, list[tuple[int, Any]]] = {}
    for buffer, weight in weights.items():
        for operator in weight.operators:
            reading.setdefault(int(operator.inputs[0]), []).append((buffer, operator))
    totals: dict[int, Any] = {}
    read = values(content, sorted(reading), lambda: sensitivity.at(calibration(samples), places))
    for index, value in read:
        for buffer, operator in reading[index]:
            weight = weights[buffer]
            most = compensation.rows_of(
                weight.filters.shape[2], len(places) * len(weight.operators)
            )
            rows = _rows(weight, operator, value, most)
            totals[buffer] = totals.get(buffer, 0.0) + compensation.gram(rows, weight.groups)
    return totals


def _rows(weight: Weight, operator: Any, value: NDArray[Any], most: int) -> NDArray[Any]:
    """What filters are multiplied by, one row for each time."""
    if weight.name == "FULLY_CONNECTED":
        return compensation.some(value.reshape(-1, weight.values.shape[1]), most)
    options = operator.builtinOptions
    window = Window(
        weight.values.shape[1:3],
        (options.strideH, options.strideW),
        (options.dilationHFactor, options.dilationWFactor),
        ((0, 0), (0, 0)),
    )
    if options.padding == SAME:
        window = compensation.same(value.shape[1:3], window, upper=True)
    return compensation.patches(value.transpose(0, 3, 1, 2), window, most)
