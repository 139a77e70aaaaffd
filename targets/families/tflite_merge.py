"""One TFLite file for any sizes, made of those that a converter makes for a few fixed ones.

A converter is far more reliable where all shapes are fixed. What a graph does at one point and at
another differs only in numbers that follow the sizes: they become dynamic dimensions, or are
computed at run time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_arithmetic import Arithmetic
from crosscast.targets.families.tflite_file import (
    Editor,
    data_of,
    numpy_name,
    operator_name,
    packed,
    parse,
    set_shape,
    signature_of,
    text,
)
from crosscast.targets.families.tflite_growth import told
from crosscast.targets.families.tflite_numbers import Formula, Point, fitted

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPEATING = ("RESHAPE",)
"""Operators whose options repeat what one of their inputs says."""

LARGE = 4096
"""Bytes of a constant from which on it is held once for all files."""

MOST_NUMBERS = 64
"""Elements of a constant that may be numbers which follow the sizes, one by one."""

Shapes = Sequence[tuple[int | None, ...]]

Key = tuple[int, ...]
"""A tensor, by its index in each file."""


class Unlike(Exception):
    """The files differ in more than numbers that follow the sizes."""


def merged(
    files: Sequence[Any],
    points: Sequence[Point],
    *,
    bounded: bool = False,
    outputs: Sequence[Shapes] = (),
) -> bool:
    """Turn the first of the files, made for these points, into one for any sizes, in place.

    bounded: whether the points have the greatest sizes there are: only then is a constant that
        grows cut from the greatest one.
    outputs: the shapes that flattened outputs have to get back, of each file, where these are
        known: a reshaping can infer only one size.
    False where the files differ in more than numbers that follow the sizes; the first one is then
    of no use.
    """
    if any(len(made.subgraphs) != 1 for made in files):
        return False
    try:
        _Merging(files, points, bounded, outputs).run()
    except Unlike:
        return False
    return True


def lean(made: Any, first: Any) -> Any:
    """The file with each large constant that `first` has, too, held only there."""
    held = {_digest(buffer): buffer.data for buffer in first.buffers if _is_large(buffer)}
    shared = {}
    for index, buffer in enumerate(made.buffers):
        data = held.get(_digest(buffer)) if _is_large(buffer) else None
        if data is not None:
            shared[index], buffer.data = data, None
    # read anew, since every part of it is a view of the whole file
    small = parse(packed(made))
    for index, data in shared.items():
        small.buffers[index].data = data
    return small


def _is_large(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > LARGE


def _digest(buffer: Any) -> bytes:
    return hashlib.sha256(buffer.data).digest()


class _Merging:
    """The tensors of files with equal operators, joined one by one."""

    def __init__(
        self,
        files: Sequence[Any],
        points: Sequence[Point],
        bounded: bool,
        outputs: Sequence[Shapes],
    ) -> None:
        self.files, self.points, self.bounded = files, points, bounded
        self.outputs = outputs
        self.graphs = [made.subgraphs[0] for made in files]
        self.made, self.graph = files[0], self.graphs[0]
        self.computed = [
            {int(index) for operator in graph.operators for index in operator.outputs}
            | {int(index) for index in graph.inputs}
            for graph in self.graphs
        ]
        self.joined: dict[int, Key] = {}
        """Tensors that are no constants, by their index in the first file."""
        self.constants: dict[Key, int] = {}
        self.same: dict[tuple[Any, ...], int] = {}
        """What constants became, by what they hold."""
        self.editor = Editor(self.made, self.graph)

    def run(self) -> None:
        """Join everything."""
        rows = list(self._rows())
        for key in (*self._keys("inputs"), *self._keys("outputs")):
            self._join(key)
        for operators, _, outputs in rows:
            self._require_equal(operators)
            for key in outputs:
                self._join(key)
        self.arithmetic = Arithmetic(self.editor, self._places())
        for operators, inputs, _ in rows:
            operators[0].inputs = [self._read(operators[0], key, inputs) for key in inputs]
        for key in self.joined.values():
            self._declare(key)
        for key, shapes in zip(
            self._keys("outputs"), zip(*self.outputs, strict=True), strict=False
        ):
            self._restore(key[0], shapes)
        self.graph.operators[:0] = self.arithmetic.steps

    def _rows(self) -> Any:
        """Each operator, as all files have it, with the keys of what it reads and makes."""
        for operators in _zipped([graph.operators for graph in self.graphs]):
            inputs, outputs = (
                [
                    tuple(map(int, key))
                    for key in _zipped([getattr(each, side) for each in operators])
                ]
                for side in ("inputs", "outputs")
            )
            yield operators, inputs, outputs

    def _keys(self, side: str) -> list[Key]:
        lists = [getattr(graph, side) for graph in self.graphs]
        return [tuple(map(int, key)) for key in _zipped(lists)]

    def _require_equal(self, operators: Sequence[Any]) -> None:
        pairs = zip(self.files, operators, strict=True)
        names = {operator_name(made, operator) for made, operator in pairs}
        if len(names) > 1:
            raise Unlike
        if names <= set(REPEATING) and len(operators[0].inputs) > 1:
            return
        options = [_options(operator) for operator in operators]
        if any(other != options[0] for other in options[1:]):
            raise Unlike

    def _join(self, key: Key) -> None:
        """Note that these are one tensor."""
        if self.joined.setdefault(key[0], key) != key:
            raise Unlike
        tensors = self._tensors(key)
        shapes = [_shape(tensor) for tensor in tensors]
        if len({tensor.type for tensor in tensors}) > 1 or len({len(each) for each in shapes}) > 1:
            raise Unlike
        fixed = tensors[0].isVariable or key[0] not in self.computed[0]
        if fixed and len(set(shapes)) > 1:
            raise Unlike

    def _declare(self, key: Key) -> None:
        """Let a tensor's shape say which of its dimensions follow the sizes."""
        shapes = [_shape(tensor) for tensor in self._tensors(key)]
        if len(set(shapes)) > 1:
            set_shape(self._tensors(key)[0], _open_shape(shapes))

    def _restore(self, index: int, shapes: Shapes) -> None:
        """Give a flattened output its shape back where several of its sizes follow dimensions, and
        what is flattened does not have that shape.
        """
        maker = next((each for each in self.graph.operators if index in each.outputs), None)
        entries = [tuple(size or 0 for size in sizes) for sizes in zip(*shapes, strict=False)]
        if maker is None or operator_name(self.made, maker) != "RESHAPE":
            return
        if sum(len(set(each)) > 1 for each in entries) < 2 or any(None in each for each in shapes):
            return
        wanted = [each[0] if len(set(each)) == 1 else -1 for each in entries]
        if list(signature_of(self.graph.tensors[maker.inputs[0]])) == wanted:
            return
        formulas = [fitted(each, self.points) for each in entries]
        known = tuple(each for each in formulas if each is not None)
        if len(known) < len(formulas) or not self.arithmetic.knows(known):
            return
        maker.inputs = [maker.inputs[0], self.arithmetic.vector(known)]
        _forget_target(maker)
        set_shape(self.graph.tensors[index], wanted)

    def _places(self) -> dict[str, tuple[int, int]]:
        """The first input and axis with each dimension."""
        found: dict[str, tuple[int, int]] = {}
        for name in self.points[0]:
            wanted = tuple(point[name] for point in self.points)
            for key in self._keys("inputs"):
                sizes = list(zip(*map(_shape, self._tensors(key)), strict=True))
                if wanted in sizes:
                    found.setdefault(name, (key[0], sizes.index(wanted)))
        return found

    def _tensors(self, key: Key) -> list[Any]:
        return [graph.tensors[index] for graph, index in zip(self.graphs, key, strict=True)]

    def _read(self, operator: Any, key: Key, inputs: Sequence[Key]) -> int:
        """What an operator reads in place of these tensors."""
        if min(key) < 0:
            if max(key) >= 0:
                raise Unlike
            return -1
        computed = [index in made for index, made in zip(key, self.computed, strict=True)]
        if all(computed):
            self._join(key)
            return key[0]
        values = [
            _values(made, tensor)
            for made, tensor in zip(self.files, self._tensors(key), strict=True)
        ]
        if any(computed):
            raise Unlike
        if any(value is None for value in values):  # such as a recurrent layer's state
            self._join(key)
            return key[0]
        if operator_name(self.made, operator) == "RESHAPE" and key in inputs[1:]:
            return self._target(operator, key, values)
        if key not in self.constants:
            self.constants[key] = self._constant(key, values)
        return self.constants[key]

    def _target(self, operator: Any, key: Key, values: list[NDArray[Any]]) -> int:
        """A reshaping's shape, in which one number may be inferred."""
        if any(value.shape != values[0].shape for value in values):
            raise Unlike
        if _are_equal(values):
            return key[0]
        entries = list(zip(*(map(int, value) for value in values), strict=True))
        formulas = [fitted(each, self.points) for each in entries]
        varying = [place for place, each in enumerate(entries) if len(set(each)) > 1]
        known = [f is not None and self.arithmetic.knows([f]) for f in formulas]
        free = [place for place in varying if not known[place]]
        inferred = any(each[0] == -1 for each in entries)
        if len(free) + inferred > 1:
            raise Unlike
        if len(varying) == 1 and not inferred:
            shape = [-1 if place in varying else each[0] for place, each in enumerate(entries)]
            freed = self.editor.reshape(operator.inputs[0], operator.outputs[0], shape)
            operator.builtinOptionsType = freed.builtinOptionsType
            operator.builtinOptions = freed.builtinOptions
            return int(freed.inputs[1])
        _forget_target(operator)
        chosen = [
            Formula(offset=-1) if place in free or formula is None else formula
            for place, formula in enumerate(formulas)
        ]
        return self.arithmetic.vector(tuple(chosen))

    def _constant(self, key: Key, values: list[NDArray[Any]]) -> int:
        if _are_equal(values):
            return key[0]
        kind = self._tensors(key)[0].type
        if any(tensor.type != kind for tensor in self._tensors(key)):
            raise Unlike
        held = (kind, *((value.shape, value.tobytes()) for value in values))
        if held not in self.same:
            equal = len({value.shape for value in values}) == 1
            make = self._numbers if equal else self._grown
            self.same[held] = make(key, values)
        return self.same[held]

    def _numbers(self, key: Key, values: list[NDArray[Any]]) -> int:
        first = values[0]
        if first.dtype.kind != "i" or first.size > MOST_NUMBERS:
            raise Unlike
        entries = zip(*(value.reshape(-1).tolist() for value in values), strict=True)
        formulas = [found for each in entries if (found := fitted(each, self.points)) is not None]
        if len(formulas) < first.size or not self.arithmetic.knows(formulas):
            raise Unlike
        kind = self._tensors(key)[0].type
        return self.arithmetic.integers(formulas, first.shape, kind)

    def _grown(self, key: Key, values: list[NDArray[Any]]) -> int:
        growth = told(values, self.points, bounded=self.bounded)
        if growth is None or not self.arithmetic.knows(growth.formulas):
            raise Unlike
        tensor = self._tensors(key)[0]
        shape = _open_shape([value.shape for value in values])
        return self.arithmetic.grown(growth, f"{text(tensor.name)}_grown", tensor.type, shape)


def _zipped(lists: Sequence[Any]) -> list[tuple[Any, ...]]:
    held = [() if each is None else each for each in lists]
    if len({len(each) for each in held}) > 1:
        raise Unlike
    return list(zip(*held, strict=True))


def _forget_target(operator: Any) -> None:
    """Remove the shape that a reshaping's options repeat."""
    if operator.builtinOptions is not None:
        operator.builtinOptions.newShape = []


def _options(operator: Any) -> Any:
    options = operator.builtinOptions
    return None if options is None else {key: str(value) for key, value in vars(options).items()}


def _open_shape(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    return [each[0] if len(set(each)) == 1 else -1 for each in zip(*shapes, strict=True)]


def _are_equal(values: Sequence[NDArray[Any]]) -> bool:
    import numpy as np

    first = values[0]
    return all(
        value.shape == first.shape
        and np.array_equal(value.reshape(-1).view(np.uint8), first.reshape(-1).view(np.uint8))
        for value in values[1:]
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in (() if tensor.shape is None else tensor.shape))


def _values(made: Any, tensor: Any) -> Any:
    """The values of a constant; None for anything else."""
    data = data_of(made, tensor)
    return None if data is None else data.view(numpy_name(tensor.type)).reshape(_shape(tensor))
