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
from crosscast.targets.families.search import Candidates, Found, Kept, Part
from crosscast.targets.families.sensitivity import Room, Squash, Standard

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
    found = [Watched(value.name) for value in model.graph.output]
    for node in _squashing(model, MOVING):
        axis = int(onnx_weights.attribute(node, "axis", -1))
        found.append(Watched(node.input[0], SQUASHING[node.op_type], axis))
    return found


def hides(model: ModelProto) -> bool:
    """Whether answers hide what int8 costs: a softmax's or sigmoid's, or means of them."""
    return any(_squashing(model, (*MOVING, "ReduceMean")))


def _squashing(model: ModelProto, through: Collection[str]) -> Iterator[NodeProto]:
    """Each softmax or sigmoid whose answer is an output, be it passed through some operators."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for value in model.graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in through:
            node = makers.get(node.input[0])
        if node is not None and node.op_type in SQUASHING:
            yield node


class Trial:
    """A float model's answers to some calibration samples, to hold others against.

    hides: whether answers hide what int8 costs.
    """

    def __init__(
        self, model: ModelProto, samples: Samples, limits: Tolerance | None = None
    ) -> None:
        self._samples, self.hides = samples, hides(model)
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


def told(
    found: Found,
    *,
    operators: Mapping[str, str],
    total: int,
    weights: Collection[str],
    sizes: Mapping[str, int],
) -> dict[str, Any]:
    """The notes that say what stayed in float; none where nothing was done.

    operators: the nodes that are not in int8 by it, of a total, and the tensor or weight that each
    touches. weights: those of what is kept that are weights. sizes: bytes of the files in float and
    as delivered.
    """
    if found.kept == Kept():
        return {}
    whys = {name: repair.cost(room, f"'{name}'") for name, room in found.alone.items()}
    return repair.told(
        operators={name: whys[tensor] for name, tensor in operators.items()},
        total=total,
        weights={name: whys[name] for name in weights},
        rooms=found.rooms,
        sizes={"float": sizes["float"], "int8": found.size, "delivered": sizes["delivered"]},
        trials=found.trials,
        **({"biases": "corrected"} if found.kept.corrected else {}),
    )


class Costs:
    """What the tensors and weights of a model cost in int8, and so which may stay in float.

    gates: makes the gated model of parts of the activations, and says what to watch in it. weights:
    gives the float model and what int8 makes of its weights; called only where they are asked for.
    """

    def __init__(
        self,
        trial: Trial,
        *,
        activations: Sequence[str],
        gates: Callable[[Sequence[Part]], tuple[ModelProto, list[Watched]]],
        weights: Callable[[], tuple[ModelProto, Mapping[str, NDArray[Any]]]],
    ) -> None:
        self._trial, self._activations = trial, activations
        self._gates, self._weights = gates, weights

    def candidates(self) -> Candidates:
        """Tensors, and weights with their shares."""
        _, rounded = self._weights()
        total = sum(values.size for values in rounded.values())
        shares = {name: values.size / total for name, values in rounded.items()}
        return Candidates((self._activations, list(rounded)), shares)

    def measured(self, parts: Sequence[Part], hardest: Sequence[int]) -> list[Room]:
        """The room that each part leaves where it alone is in int8, on the samples at `hardest`."""
        activations = set(self._activations)
        computed = [part for part in parts if part[0] in activations]
        stored = [part for part in parts if part[0] not in activations]
        found: dict[Part, Room] = {}
        for some, gated in ((computed, self._gates), (stored, self._exchanged)):
            if some:
                found |= zip(some, self._trial.rooms(*gated(some), len(some), hardest), strict=True)
        return [found[part] for part in parts]

    def _exchanged(self, parts: Sequence[Part]) -> tuple[ModelProto, list[Watched]]:
        exact, rounded = self._weights()
        return gated_weights(exact, parts, rounded)


def size_of(model: ModelProto) -> int:
    """The bytes of the files that a model is written to."""
    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        return bytes_of(Path(scratch))


def bytes_of(tree: Path) -> int:
    """The bytes of the model's files in a tree."""
    return sum(path.stat().st_size for path in tree.iterdir() if path.name.startswith(MODEL))
