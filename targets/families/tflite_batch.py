"""One TFLite file for any batch, made of the two that a converter makes for fixed batches.

A converter is far more reliable where all shapes are fixed. What a graph does for a batch of 2 and
for one of 3 differs only in numbers that depend on the batch, and each of these is an affine
function of it: they become dynamic dimensions, or are computed at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_file import (
    Editor,
    data_of,
    numpy_name,
    operator_name,
    set_shape,
    signature_of,
    tensor_type,
    text,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCHES = (2, 3)
"""The fixed batches: neither is 1, which converters take for a dimension of no account."""

NUMBERS = ("RESHAPE",)
"""Operators whose options repeat what one of their inputs says."""


def for_any_batch(made: Any, other: Any) -> bool:
    """Turn `made`, the file for the first of BATCHES, into one for any batch, in place.

    other: the file for the second. False where they differ in more than numbers that follow the
    batch; `made` is then of no use.
    """
    if [len(one.subgraphs) for one in (made, other)] != [1, 1]:
        return False
    graph, twin = made.subgraphs[0], other.subgraphs[0]
    merging = _Merging(made, other)
    return (
        _same_operators(made, other)
        and len(graph.tensors) == len(twin.tensors)
        and all(merging.joins(index) for index in range(len(graph.tensors)))
        and merging.writes_vectors()
    )


def _same_operators(made: Any, other: Any) -> bool:
    graph, twin = made.subgraphs[0], other.subgraphs[0]
    if len(graph.operators) != len(twin.operators):
        return False
    return all(
        operator_name(made, one) == operator_name(other, two)
        and list(one.inputs) == list(two.inputs)
        and list(one.outputs) == list(two.outputs)
        and (operator_name(made, one) in NUMBERS or _options(one) == _options(two))
        for one, two in zip(graph.operators, twin.operators, strict=True)
    )


def _options(operator: Any) -> Any:
    options = operator.builtinOptions
    return None if options is None else {key: str(value) for key, value in vars(options).items()}


class _Merging:
    """The tensors of two files with equal operators, joined one by one."""

    def __init__(self, made: Any, other: Any) -> None:
        self.made, self.other = made, other
        self.graph, self.twin = made.subgraphs[0], other.subgraphs[0]
        self.editor = Editor(made, self.graph)
        self.vectors: dict[int, NDArray[Any]] = {}
        """Constants that follow the batch: each with its value for the second batch."""
        self.spread: dict[int, tuple[int, ...]] = {}
        """Constants of equal rows, or of rows each a step from the one before: each with its shape
        for the second batch."""

    def joins(self, index: int) -> bool:
        """Whether a tensor is the same but for the batch; its shape then says so."""
        one, two = self.graph.tensors[index], self.twin.tensors[index]
        shapes = _shape(one), _shape(two)
        if one.type != two.type or len(shapes[0]) != len(shapes[1]):
            return False
        values = _values(self.made, one), _values(self.other, two)
        if values[0] is not None and values[1] is not None:
            return self._joins_constant(index, *values)
        if (values[0] is None) != (values[1] is None):
            return False
        if shapes[0] != shapes[1]:
            pairs = zip(*shapes, strict=True)
            set_shape(one, [size if size == its else -1 for size, its in pairs])
            return not one.isVariable
        return True

    def _joins_constant(self, index: int, one: NDArray[Any], two: NDArray[Any]) -> bool:
        if one.shape == two.shape:
            if one.tobytes() == two.tobytes():
                return True
            self.vectors[index] = two
            return bool(one.dtype == "int32" and one.ndim == 1)
        axes = [axis for axis, size in enumerate(one.shape) if size != two.shape[axis]]
        self.spread[index] = two.shape
        return len(axes) == 1 and _is_made_of_rows(one, two, axes[0])

    def writes_vectors(self) -> bool:
        """Replace the constants that follow the batch: by what is free in a reshaping where one
        number follows, else by arithmetic on the batch. False where that is not possible.
        """
        for operator in self.graph.operators:
            if operator_name(self.made, operator) == "RESHAPE":
                self._frees(operator)
        used = {int(index) for operator in self.graph.operators for index in operator.inputs}
        wanted = sorted(used & (self.vectors.keys() | self.spread.keys()))
        if {*self.graph.outputs} & {*self.vectors, *self.spread}:
            return False
        if not wanted:
            return True
        return self._computes(wanted)

    def _frees(self, operator: Any) -> None:
        """Let a reshaping infer the one number that follows the batch."""
        target = int(operator.inputs[1]) if len(operator.inputs) > 1 else -1
        two = self.vectors.get(target)
        if two is None:
            return
        one = _values(self.made, self.graph.tensors[target])
        shape = [int(size) if size == its else -1 for size, its in zip(one, two, strict=True)]
        if shape.count(-1) == 1:
            freed = self.editor.reshape(operator.inputs[0], operator.outputs[0], shape)
            operator.inputs, operator.builtinOptions = freed.inputs, freed.builtinOptions

    def _computes(self, wanted: Sequence[int]) -> bool:
        batch = _Batch.of(self.editor)
        if batch is None:
            return False
        replaced: dict[int, int] = {}
        for index in wanted:
            one = _values(self.made, self.graph.tensors[index])
            if index in self.vectors:
                replaced[index] = batch.vector(one, self.vectors[index])
            else:
                replaced[index] = batch.rows(index, one, self.spread[index])
        for operator in self.graph.operators:
            operator.inputs = [replaced.get(int(index), index) for index in operator.inputs]
        self.graph.operators[:0] = batch.steps
        return True


class _Batch:
    """Arithmetic on the batch at run time.

    steps: the operators that do it, in order.
    """

    def __init__(self, editor: Editor, port: int, axis: int) -> None:
        import numpy as np

        self._editor = editor
        self.steps: list[Any] = []
        rank = len(signature_of(editor.graph.tensors[port]))
        shape = self._integers("batch_shape", [rank])
        self._step("SHAPE", [port], shape, "Shape", outType=tensor_type("int32"))
        self._number = self._integers("batch", [1])
        place = self._constant("batch_axis", np.array([axis], np.int32))
        self._step("GATHER", [shape, place], self._number, "Gather", axis=0)

    @classmethod
    def of(cls, editor: Editor) -> _Batch | None:
        """By the first input that has a batch; None where none has."""
        for port in editor.graph.inputs:
            shape = signature_of(editor.graph.tensors[port])
            if -1 in shape:
                return cls(editor, int(port), shape.index(-1))
        return None

    def vector(self, one: NDArray[Any], two: NDArray[Any]) -> int:
        """The vector that is `one` and `two` for the two BATCHES, an affine function of it."""
        first, second = BATCHES
        factor = (two - one) // (second - first)
        name, size = f"follows_batch_{len(self.steps)}", [len(one)]
        scaled = self._integers(f"{name}_scaled", size)
        self._step("MUL", [self._number, self._constant(f"{name}_factor", factor)], scaled, "Mul")
        if not (one - factor * first).any():
            return scaled
        moved = self._integers(name, size)
        offset = self._constant(f"{name}_offset", one - factor * first)
        self._step("ADD", [scaled, offset], moved, "Add")
        return moved

    def rows(self, index: int, one: NDArray[Any], shape: tuple[int, ...]) -> int:
        """A constant with as many blocks as the batch asks for, all equal, or of one row, each as
        far from the one before as the rows of `one` are. shape: that for the second of BATCHES.
        """
        import numpy as np

        tensor = self._editor.graph.tensors[index]
        name = f"{text(tensor.name)}_rows"
        axis = next(place for place, size in enumerate(shape) if size != one.shape[place])
        block = _block(one, axis)
        step = (
            one.take([1], axis) - block if one.dtype.kind == "i" and _is_row(block, axis) else None
        )
        if step is not None and step.any():
            return self._stepped(name, tensor.type, block, step, axis)
        output = self._made_of_rows(name, tensor.type, one.shape, axis)
        source = self._editor.tensor(f"{name}_block", tensor.type, block.shape, block)
        counts = np.ones((2, one.ndim), np.int32)
        counts[:, axis] = BATCHES
        made = self._editor.operator("TILE", [source, self.vector(*counts)], output, 3)
        self.steps.append(made)
        return output

    def _stepped(
        self, name: str, kind: int, row: NDArray[Any], step: NDArray[Any], axis: int
    ) -> int:
        """Rows `row`, `row + step`, `row + 2 * step` …"""
        import numpy as np

        scalars = [self._constant(f"{name}_{each}", np.array(each, np.int32)) for each in (0, 1)]
        limit = self._integers(f"{name}_limit", [])
        self.steps.append(self._editor.reshape(self._number, limit, []))
        count = self._integers(f"{name}_count", [-1])
        self._step("RANGE", [scalars[0], limit, scalars[1]], count, "Range")
        shape = [-1 if place == axis else 1 for place in range(row.ndim)]
        column = self._integers(f"{name}_column", shape)
        self.steps.append(self._editor.reshape(count, column, shape))
        if kind != tensor_type("int32"):
            column, narrow = self._editor.tensor(f"{name}_cast", kind, shape), column
            self.steps.append(self._editor.cast(narrow, column))
        scaled = self._made_of_rows(f"{name}_scaled", kind, row.shape, axis)
        factor = self._editor.tensor(f"{name}_step", kind, step.shape, step)
        self._step("MUL", [column, factor], scaled, "Mul")
        output = self._made_of_rows(name, kind, row.shape, axis)
        offset = self._editor.tensor(f"{name}_row", kind, row.shape, row)
        self._step("ADD", [scaled, offset], output, "Add")
        return output

    def _made_of_rows(self, name: str, kind: int, shape: Sequence[int], axis: int) -> int:
        dims = [-1 if place == axis else size for place, size in enumerate(shape)]
        return self._editor.tensor(name, kind, dims)

    def _integers(self, name: str, shape: Sequence[int]) -> int:
        return self._editor.tensor(name, tensor_type("int32"), shape)

    def _constant(self, name: str, values: NDArray[Any]) -> int:
        return self._editor.tensor(name, tensor_type("int32"), values.shape, values)

    def _step(
        self, operator: str, inputs: list[int], output: int, kind: str, **values: int
    ) -> None:
        from ai_edge_litert import schema_py_generated as schema

        made = self._editor.operator(operator, inputs, output)
        made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
        made.builtinOptions = getattr(schema, f"{kind}OptionsT")()
        for name, value in values.items():
            setattr(made.builtinOptions, name, value)
        self.steps.append(made)


def _is_made_of_rows(one: NDArray[Any], two: NDArray[Any], axis: int) -> bool:
    """Whether both are made of as many equal blocks as their batch is large, or of as many rows of
    integers, each as far from the one before.
    """
    import numpy as np

    first, second = BATCHES
    if one.shape[axis] * second != two.shape[axis] * first:
        return False
    block = _block(one, axis)
    if all(
        np.array_equal(np.concatenate([block] * count, axis), values)
        for values, count in ((one, first), (two, second))
    ):
        return True
    if one.dtype.kind != "i" or not _is_row(block, axis):
        return False
    step = one.take([1], axis) - block
    return all(
        np.array_equal(two.take([index], axis), block + index * step) for index in range(second)
    )


def _block(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """What the first of BATCHES has for one element of it."""
    return values.take(range(values.shape[axis] // BATCHES[0]), axis)


def _is_row(block: NDArray[Any], axis: int) -> bool:
    return bool(block.shape[axis] == 1)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in (() if tensor.shape is None else tensor.shape))


def _values(made: Any, tensor: Any) -> Any:
    """The values of a constant; None for anything else."""
    data = data_of(made, tensor)
    return None if data is None else data.view(numpy_name(tensor.type)).reshape(_shape(tensor))
