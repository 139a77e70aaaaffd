"""TFLite files tried on calibration samples: the room they leave, and what operators cost."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.targets.families import repair, sensitivity
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.search import Found, Kept, Part
from crosscast.targets.families.sensitivity import AT_ONCE, Room, Squash, Standard
from crosscast.targets.families.tflite_finish import sign
from crosscast.targets.families.tflite_runtime import LiteRtSession
from crosscast.targets.families.tflite_samples import calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosscast.pipeline.parity.tolerance import Tolerance

SQUASHING: Mapping[str, Squash] = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}

MOVING = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CAST", "QUANTIZE", "DEQUANTIZE")
"""Operators that what is squashed passes through on its way out."""


def watched(made: Any) -> list[tuple[int, Squash]]:
    """The outputs, and what a softmax or sigmoid before them reads, in an order that quantization
    does not change.
    """
    found: list[tuple[int, Squash]] = [(int(index), "") for index in made.subgraphs[0].outputs]
    return [*found, *_squashing(made, MOVING)]


def hides(made: Any) -> bool:
    """Whether answers hide what int8 costs: a softmax's or sigmoid's, or means of them."""
    return any(_squashing(made, (*MOVING, "MEAN")))


def _squashing(made: Any, through: Collection[str]) -> Iterator[tuple[int, Squash]]:
    """What each softmax or sigmoid reads whose answer is an output, be it passed through some
    operators.
    """
    graph = made.subgraphs[0]
    makers = {int(index): each for each in graph.operators for index in each.outputs}
    for output in graph.outputs:
        maker = makers.get(int(output))
        while maker is not None and files.operator_name(made, maker) in through:
            maker = makers.get(int(maker.inputs[0]))
        squash = SQUASHING.get(files.operator_name(made, maker)) if maker is not None else None
        if maker is not None and squash:
            yield int(maker.inputs[0]), squash


class Trial:
    """A float file's answers to some calibration samples, to hold others against.

    hides: whether answers hide what int8 costs.
    """

    def __init__(self, content: bytes, samples: Path, limits: Tolerance | None = None) -> None:
        self._samples = samples
        places = sensitivity.spread(sum(1 for _ in calibration(samples)))
        made = files.parse(content)
        tensors, self.hides = watched(made), hides(made)
        taken = self._taken(places)
        wanted = sensitivity.held(answers(made, [index for index, _ in tensors], taken))
        self._places = places[: len(wanted)]
        squashes = [squash for _, squash in tensors]
        self._standard = Standard(wanted, squashes, limits)

    def room(self, content: bytes) -> Room:
        """What a quantized file leaves; none at all where it does not run."""
        return self._room(files.parse(content), range(len(self._places)))

    def alone(self, made: Any, hardest: Sequence[int]) -> Room:
        """What a file leaves on the samples at `hardest`."""
        return self._room(made, hardest)

    def _room(self, made: Any, places: Sequence[int]) -> Room:
        taken = self._taken([self._places[place] for place in places])
        try:
            found = list(answers(made, [index for index, _ in watched(made)], taken))
        except StageError:
            return Room([-math.inf])
        return Room(
            [self._standard.room_db(place, each) for place, each in zip(places, found, strict=True)]
        )

    def _taken(self, places: Sequence[int]) -> Iterator[Arrays]:
        return sensitivity.at(calibration(self._samples), places)


def answers(
    made: Any, indices: Sequence[int], samples: Iterable[Arrays]
) -> Iterator[list[NDArray[Any]]]:
    """Tensors of a file, by index, for each sample; the file's objects are changed for it."""
    graph = made.subgraphs[0]
    given = {int(index): files.text(graph.tensors[index].name) for index in graph.inputs}
    graph.outputs = list(dict.fromkeys([*(int(index) for index in graph.outputs), *indices]))
    for place, index in enumerate(graph.outputs):
        if index not in given:
            graph.tensors[index].name = f"sensitivity_{place}"
    places = [graph.outputs.index(index) for index in indices]
    sign(made, graph)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.tflite"
        files.write(made, path)
        try:
            session = LiteRtSession(path)
        except (RuntimeError, ValueError) as error:
            raise StageError(f"LiteRT cannot load the model: {error}") from error
        for sample in samples:
            values = list(session.run(sample).values())
            yield [values[place] for place in places]


def values(
    content: bytes, indices: Sequence[int], samples: Callable[[], Iterable[Arrays]]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Tensors of a file, by index: each once for each sample, few of them in memory at once."""
    for start in range(0, len(indices), AT_ONCE):
        some = indices[start : start + AT_ONCE]
        for found in answers(files.parse(content), some, samples()):
            yield from zip(some, found, strict=True)


def rounding(content: bytes, operators: Sequence[int], ranges: Mapping[str, Any]) -> Any:
    """The float file's objects, in which those operators, by place, read and give int8 values."""
    made = files.parse(content)
    graph = made.subgraphs[0]
    chosen = [graph.operators[place] for place in operators]
    editor = files.Editor(made, graph)
    for operator in chosen:
        output = int(operator.outputs[0])
        operator.inputs = list(operator.inputs)
        for port, source in enumerate(operator.inputs):
            if _is_read(made, graph, source, ranges):
                steps, operator.inputs[port] = _rounded(editor, source, ranges)
                at = graph.operators.index(operator)
                graph.operators[at:at] = steps
        if files.text(graph.tensors[output].name) in ranges and output not in graph.outputs:
            steps, rounded = _rounded(editor, output, ranges)
            for reader in graph.operators:
                reader.inputs = [rounded if index == output else index for index in reader.inputs]
            steps[0].inputs = [output]
            after = graph.operators.index(operator) + 1
            graph.operators[after:after] = steps
    return made


def _is_read(made: Any, graph: Any, index: int, ranges: Mapping[str, Any]) -> bool:
    """Whether an input is there, is no constant, and has a range."""
    tensor = graph.tensors[index]
    is_there = index >= 0 and files.text(tensor.name) in ranges
    is_float = is_there and files.numpy_name(tensor.type) == "float32"
    return is_float and files.data_of(made, tensor) is None


def _rounded(editor: files.Editor, index: int, ranges: Mapping[str, Any]) -> tuple[list[Any], int]:
    """A QUANTIZE and a DEQUANTIZE of a tensor, and the index of what they give."""
    import numpy as np

    tensor = editor.graph.tensors[index]
    name, shape = files.text(tensor.name), files.signature_of(tensor)
    low = min(float(np.min(ranges[name]["min"])), 0.0)
    high = max(float(np.max(ranges[name]["max"])), 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    stem = f"{name}_rounded_{len(editor.graph.tensors)}"
    levels = editor.tensor(f"{stem}_levels", files.tensor_type("int8"), shape)
    parameters = files.quantization([scale], 0)
    parameters.zeroPoint = np.array([round(-128 - low / scale)], np.int64)
    editor.graph.tensors[levels].quantization = parameters
    output = editor.tensor(stem, tensor.type, shape)
    steps = [
        editor.operator("QUANTIZE", [index], levels),
        editor.operator("DEQUANTIZE", [levels], output, 2),
    ]
    return steps, output


def costs(
    trial: Trial, *, content: bytes, ranges: Mapping[str, Any], places: Mapping[str, int]
) -> Callable[[Sequence[Part], Sequence[int]], list[Room]]:
    """Measures the room that each of some operators' groups leaves where it alone is in int8, on
    the samples at some places.

    places: of the operators in the file, by the tensors that they give.
    """

    def measured(parts: Sequence[Part], hardest: Sequence[int]) -> list[Room]:
        some = ([places[name] for name in part] for part in parts)
        return [trial.alone(rounding(content, each, ranges), hardest) for each in some]

    return measured


def told(found: Found, *, total: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The notes that say what stayed in float, of a total of operators; none where nothing was
    done. sizes: bytes of the files in float and as delivered.
    """
    kept = found.kept
    if kept == Kept():
        return {}
    arithmetic = "float" if kept.is_float else "dynamic"
    return repair.told(
        operators={
            name: repair.cost(found.alone[name], "the operator") for name in sorted(kept.names)
        },
        total=total,
        weights={},
        rooms=found.rooms,
        sizes={"float": sizes["float"], "int8": found.size, "delivered": sizes["delivered"]},
        trials=found.trials,
        biases="corrected",
        **({"arithmetic": arithmetic} if kept.names else {}),
    )
