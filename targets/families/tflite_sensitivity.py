"""TFLite files tried on calibration samples: the room they leave, and what operators cost."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.targets.families import sensitivity
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.sensitivity import AT_ONCE, LEVELS, Room, Squash, Standard
from crosscast.targets.families.tflite_finish import sign
from crosscast.targets.families.tflite_runtime import LiteRtSession
from crosscast.targets.families.tflite_samples import calibration

if TYPE_CHECKING:
    from numpy.typing import NDArray

SQUASHING: Mapping[str, Squash] = {"SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}

MOVING = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CAST", "QUANTIZE", "DEQUANTIZE")
"""Operators that what is squashed passes through on its way out."""


def watched(made: Any) -> list[tuple[int, Squash]]:
    """The outputs, and what a softmax or sigmoid before them reads, in an order that quantization
    does not change.
    """
    graph = made.subgraphs[0]
    makers = {int(index): each for each in graph.operators for index in each.outputs}
    found: list[tuple[int, Squash]] = [(int(index), "") for index in graph.outputs]
    for output in graph.outputs:
        maker = makers.get(int(output))
        while maker is not None and files.operator_name(made, maker) in MOVING:
            maker = makers.get(int(maker.inputs[0]))
        squash = SQUASHING.get(files.operator_name(made, maker)) if maker is not None else None
        if maker is not None and squash:
            found.append((int(maker.inputs[0]), squash))
    return found


class Trial:
    """A float file's answers to some calibration samples, to hold others against."""

    def __init__(self, content: bytes, samples: Path) -> None:
        self._samples = samples
        places = sensitivity.spread(sum(1 for _ in calibration(samples)))
        made = files.parse(content)
        tensors = watched(made)
        taken = self._taken(places)
        wanted = sensitivity.held(answers(made, [index for index, _ in tensors], taken))
        self._places = places[: len(wanted)]
        squashes = [squash for _, squash in tensors]
        self._standard = Standard(wanted, squashes)

    def room(self, content: bytes) -> Room:
        """What a quantized file leaves; none at all where it does not run."""
        return self._room(files.parse(content), range(len(self._places)))

    def cost(self, made: Any, hardest: Sequence[int]) -> float:
        """What a file loses on the samples at `hardest`."""
        return self._room(made, hardest).cost

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
        source, output = int(operator.inputs[0]), int(operator.outputs[0])
        at = graph.operators.index(operator)
        if files.text(graph.tensors[source].name) in ranges:
            steps, rounded = _rounded(editor, source, ranges)
            operator.inputs = [rounded, *list(operator.inputs)[1:]]
            graph.operators[at:at] = steps
        if files.text(graph.tensors[output].name) in ranges and output not in graph.outputs:
            steps, rounded = _rounded(editor, output, ranges)
            for reader in graph.operators:
                reader.inputs = [rounded if index == output else index for index in reader.inputs]
            steps[0].inputs = [output]
            after = graph.operators.index(operator) + 1
            graph.operators[after:after] = steps
    return made


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


class Kept(NamedTuple):
    """The operators, by the tensors that they give, whose activations stay in float. Their weights
    are int8 and read by kernels that round what comes as it comes; where `is_float`, they are
    given back as floats first. corrected: whether biases take back what rounded weights add.
    """

    operators: frozenset[str] = frozenset()
    is_float: bool = False
    corrected: bool = False


class Search:
    """Finds the least that has to stay in float for a quantized file to keep its answers.

    quantized: makes the objects of the file that keeps so much, with ranges from all samples or
    from half of them. candidates: the places of the operators that may be kept, by the tensor that
    each gives.
    """

    def __init__(
        self,
        *,
        content: bytes,
        samples: Path,
        ranges: Mapping[str, Any],
        quantized: Callable[[Kept, bool], Any],
        candidates: Mapping[str, int],
    ) -> None:
        self._trial = Trial(content, samples)
        self._content, self._ranges = content, ranges
        self._quantized, self._candidates = quantized, candidates
        self._rooms: dict[Kept, Room] = {}
        self._last: tuple[Kept, bytes] | None = None

    def found(self) -> tuple[Any, dict[str, Any]]:
        """The file's objects, and the notes of what it keeps in float."""
        room = self._room(Kept())
        if room.reaches(LEVELS[0]):
            return files.parse(self._file(Kept())), {}
        kept = self._least(room.hardest())
        told: dict[str, Any] = {"biases": "corrected"}
        if kept.operators:
            told["activations"] = sorted(kept.operators)
            told["arithmetic"] = "float" if kept.is_float else "dynamic"
        return self._quantized(kept, True), told

    def _least(self, hardest: Sequence[int]) -> Kept:
        every = frozenset(self._candidates)
        rounded, exact = (self._room(Kept(every, choice, True)).level for choice in (False, True))
        is_float = rounded < min(exact, LEVELS[1])
        level = exact if is_float else rounded
        if level == -math.inf:
            return Kept(every, True, True)
        if self._room(Kept(corrected=True)).reaches(level):
            return Kept(corrected=True)
        groups = sensitivity.parts(list(self._candidates))
        costs = [self._cost(group, hardest) for group in groups]
        order = sensitivity.ranked(groups, costs)

        def works(size: int) -> bool:
            names = frozenset(name for group in order[:size] for name in group)
            return self._room(Kept(names, is_float, True)).reaches(level)

        return Kept(sensitivity.least(order, works), is_float, True)

    def _cost(self, group: Sequence[str], hardest: Sequence[int]) -> float:
        places = [self._candidates[name] for name in group]
        return self._trial.cost(rounding(self._content, places, self._ranges), hardest)

    def _room(self, kept: Kept) -> Room:
        if kept not in self._rooms:
            self._rooms[kept] = self._trial.room(self._file(kept))
        return self._rooms[kept]

    def _file(self, kept: Kept) -> bytes:
        if self._last is None or self._last[0] != kept:
            self._last = kept, files.packed(self._quantized(kept, kept == Kept()))
        return self._last[1]
