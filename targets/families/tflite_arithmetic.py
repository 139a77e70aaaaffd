"""Arithmetic on the sizes of dynamic dimensions, done by a TFLite file at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_file import Editor, signature_of, tensor_type
from crosscast.targets.families.tflite_growth import Counted, Cut, Growth
from crosscast.targets.families.tflite_numbers import Formula

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Arithmetic:
    """Operators that compute what follows the sizes.

    places: the input and the axis that has each dimension.
    steps: the operators, in order.
    """

    def __init__(self, editor: Editor, places: Mapping[str, tuple[int, int]]) -> None:
        self._editor = editor
        self._places = places
        self._sizes: dict[str, int] = {}
        self._vectors: dict[tuple[Formula, ...], int] = {}
        self.steps: list[Any] = []

    def knows(self, formulas: Sequence[Formula]) -> bool:
        """Whether an input tells all that they depend on."""
        return all(formula.names <= self._places.keys() for formula in formulas)

    def integers(self, formulas: Sequence[Formula], shape: Sequence[int], kind: int) -> int:
        """The tensor of that shape and type that holds the formulas' numbers."""
        result = self.vector(tuple(formulas))
        if tuple(shape) != (len(formulas),):
            flat, result = result, self._integers("shaped", shape)
            self.steps.append(self._editor.reshape(flat, result, shape))
        if kind != tensor_type("int32"):
            narrow, result = result, self._editor.tensor(self._name("cast"), kind, shape)
            self.steps.append(self._editor.cast(narrow, result))
        return result

    def vector(self, formulas: tuple[Formula, ...]) -> int:
        """The numbers as int32."""
        if formulas not in self._vectors:
            self._vectors[formulas] = self._computed(formulas)
        return self._vectors[formulas]

    def grown(self, growth: Growth, name: str, kind: int, shape: Sequence[int]) -> int:
        """The constant that is made that way. shape: its own, -1 for what grows."""
        if isinstance(growth, Counted):
            return self._counted(growth, name, kind, shape)
        output = self._editor.tensor(name, kind, shape)
        if isinstance(growth, Cut):
            self._cut(growth, name, kind, output)
            return output
        block = growth.block
        if isinstance(block, Counted | Cut):
            sizes = [
                1 if count.offset != 1 or not count.is_constant else size
                for size, count in zip(shape, growth.counts, strict=True)
            ]
            source = self.grown(block, f"{name}_row", kind, sizes)
        else:
            source = self._editor.tensor(f"{name}_block", kind, block.shape, block)
        made = self._editor.operator("TILE", [source, self.vector(growth.counts)], output, 3)
        self.steps.append(made)
        return output

    def _cut(self, growth: Cut, name: str, kind: int, output: int) -> None:
        whole = growth.greatest
        source = self._editor.tensor(f"{name}_greatest", kind, whole.shape, whole)
        starts, sizes = self.vector(growth.starts), self.vector(growth.sizes)
        self._step("SLICE", [source, starts, sizes], output, "Slice")

    def _counted(self, growth: Counted, name: str, kind: int, shape: Sequence[int]) -> int:
        import numpy as np

        row, step = growth.row, growth.step
        scalars = [self._constant(np.array(each, np.int32)) for each in (0, 1)]
        limit = self._integers("limit", [])
        self.steps.append(self._editor.reshape(self.vector((growth.count,)), limit, []))
        count = self._integers("count", [-1])
        self._step("RANGE", [scalars[0], limit, scalars[1]], count, "Range")
        upright = [-1 if place == growth.axis else 1 for place in range(row.ndim)]
        column = self._integers("column", upright)
        self.steps.append(self._editor.reshape(count, column, upright))
        if kind != tensor_type("int32"):
            narrow, column = column, self._editor.tensor(self._name("cast"), kind, upright)
            self.steps.append(self._editor.cast(narrow, column))
        if (step != 1).any():
            scaled = self._editor.tensor(self._name("scaled"), kind, shape)
            factor = self._editor.tensor(self._name("step"), kind, step.shape, step)
            self._step("MUL", [column, factor], scaled, "Mul")
            column = scaled
        output = self._editor.tensor(name, kind, shape)
        offset = self._editor.tensor(self._name("row"), kind, row.shape, row)
        self._step("ADD", [column, offset], output, "Add")
        return output

    def _computed(self, formulas: tuple[Formula, ...]) -> int:
        import numpy as np

        if all(formula.is_constant for formula in formulas):
            return self._constant(np.array([each.offset for each in formulas], np.int32))
        total = self._sum(formulas)
        for name in self._places:
            times = [formula.powers.count(name) for formula in formulas]
            for power in range(1, max(times) + 1):
                counts = [each >= power for each in times]
                total = self._combined("MUL", total, self._size_or_one(name, counts), len(times))
        divisors = np.array([formula.divisor for formula in formulas], np.int32)
        if (divisors != 1).any():
            total = self._combined("FLOOR_DIV", total, self._constant(divisors), len(formulas))
        return total

    def _sum(self, formulas: tuple[Formula, ...]) -> int:
        """The offsets plus the dimensions times their factors."""
        import numpy as np

        count = len(formulas)
        offsets = np.array([formula.offset for formula in formulas], np.int32)
        total = None if not offsets.any() else self._constant(offsets)
        for name in self._places:
            factors = np.array([dict(each.factors).get(name, 0) for each in formulas], np.int32)
            if not factors.any():
                continue
            part = self._size(name)
            if count > 1 or (factors != 1).any():
                part = self._combined("MUL", part, self._constant(factors), count)
            total = part if total is None else self._combined("ADD", total, part, count)
        return self._constant(offsets) if total is None else total

    def _size_or_one(self, name: str, counts: Sequence[bool]) -> int:
        """The dimension's size where it counts, else 1."""
        import numpy as np

        if all(counts):
            return self._size(name)
        chosen = np.array(counts, np.int32)
        masked = self._combined("MUL", self._size(name), self._constant(chosen), len(counts))
        return self._combined("ADD", masked, self._constant(1 - chosen), len(counts))

    def _size(self, name: str) -> int:
        """A dimension's size as a vector of one number."""
        if name not in self._sizes:
            import numpy as np

            port, axis = self._places[name]
            rank = len(signature_of(self._editor.graph.tensors[port]))
            shape, size = self._integers("shape_of", [rank]), self._integers(f"size_{name}", [1])
            self._step("SHAPE", [port], shape, "Shape", outType=tensor_type("int32"))
            place = self._constant(np.array([axis], np.int32))
            self._step("GATHER", [shape, place], size, "Gather", axis=0)
            self._sizes[name] = size
        return self._sizes[name]

    def _combined(self, operator: str, one: int, other: int, count: int) -> int:
        output = self._integers(operator.lower(), [count])
        kind = {"ADD": "Add", "MUL": "Mul", "FLOOR_DIV": "FloorDiv"}[operator]
        version = 1 if operator != "FLOOR_DIV" else 2
        self._step(operator, [one, other], output, kind, version=version)
        return output

    def _integers(self, name: str, shape: Sequence[int]) -> int:
        return self._editor.tensor(self._name(name), tensor_type("int32"), shape)

    def _constant(self, values: NDArray[Any]) -> int:
        name = self._name("constant")
        return self._editor.tensor(name, tensor_type("int32"), values.shape, values)

    def _name(self, what: str) -> str:
        return f"follows_sizes_{len(self._editor.graph.tensors)}_{what}"

    def _step(
        self,
        operator: str,
        inputs: list[int],
        output: int,
        kind: str,
        version: int = 1,
        **values: int,
    ) -> None:
        from ai_edge_litert import schema_py_generated as schema

        made = self._editor.operator(operator, inputs, output, version)
        made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
        made.builtinOptions = getattr(schema, f"{kind}OptionsT")()
        for name, value in values.items():
            setattr(made.builtinOptions, name, value)
        self.steps.append(made)
