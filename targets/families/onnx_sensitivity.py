"""ONNX models tried on calibration samples: how much room they leave, and what each part costs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.targets.families import onnx_weights, repair, sensitivity
from crosscast.targets.families.onnx import MODEL, save
from crosscast.targets.families.onnx_calibrate import Measured, Samples, refused
from crosscast.targets.families.sensitivity import LEVELS, Room, Squash, Standard, union

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

    from crosscast.pipeline.parity.tolerance import Tolerance

SQUASHING: Mapping[str, Squash] = {"Softmax": "softmax", "Sigmoid": "sigmoid"}

MOVING = (
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"),
    *("QuantizeLinear", "DequantizeLinear"),
)
"""Operators that what is squashed passes through on its way out."""

GATE = "sensitivity/gate"


class Watched(NamedTuple):
    """A tensor that is compared. squash: of what reads it, and the axis that it is taken along."""

    name: str
    squash: Squash = ""
    axis: int = -1


def watched(model: ModelProto) -> list[Watched]:
    """The outputs, and what a softmax or sigmoid before them reads, in an order that quantization
    does not change.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    found = [Watched(value.name) for value in model.graph.output]
    for value in model.graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in MOVING:
            node = makers.get(node.input[0])
        if node is not None and node.op_type in SQUASHING:
            axis = int(onnx_weights.attribute(node, "axis", -1))
            found.append(Watched(node.input[0], SQUASHING[node.op_type], axis))
    return found


class Trial:
    """A float model's answers to some calibration samples, to hold others against."""

    def __init__(
        self, model: ModelProto, samples: Samples, limits: Tolerance | None = None
    ) -> None:
        self._samples = samples
        places = sensitivity.spread(sum(1 for _ in samples()))
        tensors = watched(model)
        wanted = sensitivity.held(_answers(model, tensors, self._taken(places)))
        self._places = places[: len(wanted)]
        self._standard = Standard(wanted, [tensor.squash for tensor in tensors], limits)

    def room(self, model: ModelProto) -> Room:
        """What a quantized model leaves; none at all where it does not run."""
        try:
            found = list(_answers(model, watched(model), self._taken(self._places)))
        except StageError:
            return Room([-math.inf])
        return Room([self._standard.room_db(place, each) for place, each in enumerate(found)])

    def rooms(
        self, gated: ModelProto, names: Sequence[Watched], count: int, hardest: Sequence[int]
    ) -> list[Room]:
        """What each of so many gates leaves when it alone is open, on the samples at `hardest`."""
        import numpy as np

        taken = list(self._taken([self._places[place] for place in hardest]))
        fed = ({**one, GATE: gates} for gates in np.eye(count, dtype=np.float32) for one in taken)
        answers = _answers(gated, names, fed, optimized=False)
        rooms = [
            self._standard.room_db(hardest[index % len(hardest)], values)
            for index, values in enumerate(answers)
        ]
        width = len(hardest)
        return [Room(rooms[at : at + width]) for at in range(0, len(rooms), width)]

    def _taken(self, places: Sequence[int]) -> Iterator[Arrays]:
        return sensitivity.at(self._samples(), places)


def _answers(
    model: ModelProto,
    tensors: Sequence[Watched],
    samples: Iterable[Arrays],
    *,
    optimized: bool = True,
) -> Iterator[list[NDArray[Any]]]:
    """The tensors of a model for each sample, in one thread as its users' sums are."""
    import numpy as np
    import onnx
    import onnxruntime

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    given = {value.name for value in asked.graph.output}
    for tensor in tensors:
        if tensor.name not in given:
            asked.graph.output.append(onnx.helper.make_tensor_value_info(tensor.name, 1, None))
            given.add(tensor.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as scratch:
        save(asked, Path(scratch))
        try:
            session = onnxruntime.InferenceSession(
                Path(scratch) / MODEL, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise StageError(f"ONNX Runtime cannot load the model: {error}") from error
        for sample in samples:
            try:
                values = session.run([tensor.name for tensor in tensors], sample)
            except Exception as error:
                raise refused(error) from error
            yield [
                np.moveaxis(value, tensor.axis, -1) if tensor.squash == "softmax" else value
                for tensor, value in zip(tensors, values, strict=True)
            ]


def gated_activations(
    model: ModelProto, groups: Sequence[Collection[str]], found: Mapping[str, Measured], kind: str
) -> tuple[ModelProto, list[Watched]]:
    """The model in floats whose tensors are rounded to int8 where the gate of their group is 1,
    and what to watch in it.
    """
    import numpy as np
    import onnx

    made, opened = _with_gates(model, len(groups))
    graph, tensors = made.graph, watched(model)
    after: dict[str, list[NodeProto]] = {}
    renamed: dict[str, str] = {}
    least = 0 if kind == "uint8" else -128
    for index, group in enumerate(groups):
        for name in filter(found.__contains__, group):
            one = found[name]
            low, high = min(one.low, 0.0), max(one.high, 0.0)
            scale = np.float32(max((high - low) / 255, float(np.finfo(np.float32).tiny)))
            point = np.array(round(least - low / float(scale)), kind)
            held = f"{name}/sensitivity"
            for part, array in (("scale", scale), ("point", point)):
                tensor = onnx.numpy_helper.from_array(np.asarray(array), f"{held}/{part}")
                graph.initializer.append(tensor)
            steps = [f"{held}/scale", f"{held}/point"]
            rounded = [f"{held}/levels", f"{held}/rounded"]
            make = onnx.helper.make_node
            after[name] = [
                make("QuantizeLinear", [name, *steps], rounded[:1]),
                make("DequantizeLinear", [rounded[0], *steps], rounded[1:]),
                *_mixed(name, rounded[1], _gate(index), held),
            ]
            renamed[name] = held
    for name, held in renamed.items():
        onnx_weights.rename_input(graph, name, held)
    _insert_after(graph, opened, after)
    return made, [tensor._replace(name=renamed.get(tensor.name, tensor.name)) for tensor in tensors]


def gated_weights(
    model: ModelProto, groups: Sequence[Collection[str]], rounded: Mapping[str, NDArray[Any]]
) -> tuple[ModelProto, list[Watched]]:
    """The model whose weights are `rounded` where the gate of their group is 1, and what to watch
    in it.
    """
    import onnx

    made, nodes = _with_gates(model, len(groups))
    for index, group in enumerate(groups):
        for name in group:
            held = f"{name}/sensitivity"
            onnx_weights.rename_input(made.graph, name, held)
            levels = onnx.numpy_helper.from_array(rounded[name], f"{held}/rounded")
            made.graph.initializer.append(levels)
            nodes.extend(_mixed(name, levels.name, _gate(index), held))
    onnx_weights.replace_nodes(made.graph, [*nodes, *made.graph.node])
    return made, watched(model)


def _with_gates(model: ModelProto, count: int) -> tuple[ModelProto, list[NodeProto]]:
    """A copy with an input of gates, and the nodes, to be put first, that take them apart."""
    import numpy as np
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.input.append(onnx.helper.make_tensor_value_info(GATE, 1, [count]))
    nodes = []
    for index in range(count):
        place = onnx.numpy_helper.from_array(np.array(index), f"{_gate(index)}/place")
        made.graph.initializer.append(place)
        nodes.append(onnx.helper.make_node("Gather", [GATE, place.name], [_gate(index)]))
    return made, nodes


def _gate(index: int) -> str:
    return f"{GATE}/{index}"


def _mixed(name: str, other: str, gate: str, held: str) -> list[NodeProto]:
    """`held` = name + gate * (other - name)."""
    import onnx

    make = onnx.helper.make_node
    return [
        make("Sub", [other, name], [f"{held}/error"]),
        make("Mul", [f"{held}/error", gate], [f"{held}/taken"]),
        make("Add", [name, f"{held}/taken"], [held]),
    ]


def _insert_after(
    graph: GraphProto, first: Sequence[NodeProto], after: Mapping[str, list[NodeProto]]
) -> None:
    """Put nodes behind the one that makes a tensor, or first where it is an input."""
    made = {name for node in graph.node for name in node.output}
    ordered = [*first, *(node for name in after if name not in made for node in after[name])]
    for node in graph.node:
        ordered.append(node)
        for name in node.output:
            ordered.extend(after.get(name, ()))
    onnx_weights.replace_nodes(graph, ordered)


class Kept(NamedTuple):
    """What stays in float: tensors that nodes read and write, and weights. corrected: whether
    biases take back what the others' rounding adds.
    """

    corrected: bool = False
    activations: frozenset[str] = frozenset()
    weights: frozenset[str] = frozenset()


class Found(NamedTuple):
    """What a search has chosen, and by what.

    rooms: of the model that is all in int8, and of the chosen one. size: bytes of the former.
    alone: the room that is left where a tensor alone is in int8, for those that stay in float.
    """

    kept: Kept
    rooms: tuple[Room, Room]
    size: int
    alone: Mapping[str, Room]


def told(
    found: Found, *, operators: Mapping[str, str], total: int, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """The notes that say what stayed in float; none where nothing was done.

    operators: the nodes that are not in int8 by it, of a total, and the tensor that each touches.
    sizes: bytes of the files in float and as delivered.
    """
    if found.kept == Kept():
        return {}
    whys = {name: repair.cost(room, f"'{name}'") for name, room in found.alone.items()}
    return repair.told(
        operators={name: whys[tensor] for name, tensor in operators.items()},
        total=total,
        weights={name: whys[name] for name in sorted(found.kept.weights)},
        rooms=found.rooms,
        sizes={"float": sizes["float"], "int8": found.size, "delivered": sizes["delivered"]},
        **({"biases": "corrected"} if found.kept.corrected else {}),
    )


FLOAT_SHARE = 0.12
"""Of the weights' elements, the most that may stay in float: with a fifth of them, floats would
hold half of the bytes, and biases are floats already."""


class Search:
    """Finds the least that has to stay in float for a quantized model to keep its answers.

    quantized: makes the model that keeps so much, with ranges from all samples or from half of
    them. activations: the tensors that are int8 otherwise, in order; fragile: those of them that
    are expected to lose much, costliest first; gates: makes the gated model of groups of them, and
    says what to watch in it. weights: gives the float model and what int8 makes of its weights;
    called only where activations alone do not do.
    """

    def __init__(
        self,
        *,
        trial: Trial,
        quantized: Callable[[Kept, bool], ModelProto],
        activations: Sequence[str],
        gates: Callable[[Sequence[Collection[str]]], tuple[ModelProto, list[Watched]]],
        weights: Callable[[], tuple[ModelProto, Mapping[str, NDArray[Any]]]],
        fragile: Sequence[str] = (),
        ample: float = LEVELS[0],
    ) -> None:
        self._trial, self._quantized, self._activations = trial, quantized, activations
        self._gates, self._weights, self._ample = gates, weights, ample
        self._fragile = fragile
        self._rooms: dict[Kept, Room] = {}
        self._alone: dict[str, Room] = {}
        self._last: tuple[Kept, ModelProto] | None = None

    def found(self) -> tuple[ModelProto, Found]:
        """The model and what it keeps in float: nothing where it has room as it is, and as much as
        may be where nothing helps.
        """
        before = self._room(Kept())
        size = size_of(self._model(Kept()))
        kept = self._chosen(before)
        rooms = before, self._room(kept)
        model = self._model(kept) if kept == Kept() else None
        self._last = None  # which frees it first
        return model or self._quantized(kept, True), Found(kept, rooms, size, self._alone)

    def _chosen(self, before: Room) -> Kept:
        # What is fragile has room on these samples only by chance, unless it is ample.
        if before.reaches(LEVELS[-1] if self._fragile else self._ample):
            return Kept()
        room, fragile = before, frozenset(self._fragile)
        if fragile:
            self._measure([(name,) for name in self._fragile], before.hardest())
            room = self._room(Kept(activations=fragile))
            if room.reaches(self._ample):
                return self._fewest_fragile(room.level)
        corrected = Kept(True, fragile)
        if room.reaches(LEVELS[0]) and self._room(corrected).reaches(self._ample):
            return corrected
        return self._least(room.hardest())

    def _fewest_fragile(self, level: float) -> Kept:
        names = sensitivity.needed(
            self._fragile, lambda some: self._room(Kept(activations=some)).reaches(level)
        )
        return Kept(activations=frozenset(names))

    def _least(self, hardest: Sequence[int]) -> Kept:
        every, weights = frozenset(self._activations), frozenset[str]()
        level = self._room(Kept(True, every)).level
        if level < LEVELS[-1]:
            weights = self._float_weights(every, hardest)
            level = self._room(Kept(True, every, weights)).level
        if level == -math.inf:
            self._measure(sensitivity.parts(self._activations), hardest)
            return Kept(True, every, weights)
        if self._room(Kept(True, weights=weights)).reaches(level):
            return Kept(True, weights=weights)
        kept = sensitivity.least(
            self._activations,
            level=level,
            measured=lambda groups: self._measure(groups, hardest),
            room=lambda some: self._room(Kept(True, some, weights)),
        )
        return Kept(True, frozenset(kept), weights)

    def _measure(self, groups: Sequence[tuple[str, ...]], hardest: Sequence[int]) -> list[Room]:
        """The room that each group of tensors leaves where it alone is in int8."""
        if not groups:
            return []
        rooms = self._trial.rooms(*self._gates(groups), len(groups), hardest)
        self._alone |= {
            name: room for group, room in zip(groups, rooms, strict=True) for name in group
        }
        return rooms

    def _float_weights(self, every: frozenset[str], hardest: Sequence[int]) -> frozenset[str]:
        exact, rounded = self._weights()
        sizes = {name: values.size for name, values in rounded.items()}
        most = int(sum(sizes.values()) * FLOAT_SHARE)
        groups = sensitivity.parts([name for name in sizes if sizes[name] <= most])
        if not groups:
            return frozenset()
        gated = gated_weights(exact, groups, rounded)
        rooms = self._trial.rooms(*gated, len(groups), hardest)
        alone = dict(zip(groups, rooms, strict=True))
        self._alone |= {name: room for group, room in alone.items() for name in group}
        order = _within(sensitivity.ranked(alone), sizes, most)
        level = self._room(Kept(True, every, union(order))).level
        if level == -math.inf:
            return union(order)
        if level <= self._room(Kept(True, every)).level:
            return frozenset()
        count = sensitivity.fewest(
            len(order),
            lambda size: self._room(Kept(True, every, union(order[:size]))).reaches(level),
        )
        return union(order[:count])

    def _room(self, kept: Kept) -> Room:
        if kept not in self._rooms:
            self._rooms[kept] = self._trial.room(self._model(kept))
        return self._rooms[kept]

    def _model(self, kept: Kept) -> ModelProto:
        if self._last is None or self._last[0] != kept:
            self._last = None  # which frees it first
            self._last = kept, self._quantized(kept, kept == Kept())
        return self._last[1]


def size_of(model: ModelProto) -> int:
    """The bytes of the files that a model is written to."""
    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        return bytes_of(Path(scratch))


def bytes_of(tree: Path) -> int:
    """The bytes of the model's files in a tree."""
    return sum(path.stat().st_size for path in tree.iterdir() if path.name.startswith(MODEL))


def _within(
    groups: Sequence[tuple[str, ...]], sizes: Mapping[str, int], most: int
) -> list[tuple[str, ...]]:
    """Those groups, in order, that fit together into so many elements."""
    taken, kept = 0, []
    for group in groups:
        size = sum(sizes[name] for name in group)
        if taken + size <= most:
            taken += size
            kept.append(group)
    return kept
