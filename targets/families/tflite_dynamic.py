"""The weights of a TFLite file in int8, without calibration.

LiteRT's hybrid kernels quantize what goes in as it comes. What has no such kernel reads its weights
through a DEQUANTIZE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.rounding import LEVELS, keep_sums
from crosscast.targets.families.tflite_runtime import audited

if TYPE_CHECKING:
    from numpy.typing import NDArray

HYBRID = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Operators that take int8 weights with float inputs, and the axis of their scales."""

RECURRENT = (
    "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM",
)  # fmt: skip
"""Those that do so with one scale a matrix."""

UNFOLDED = ("TRANSPOSE_CONV", "BATCH_MATMUL", "CONV_3D", "CONV_3D_TRANSPOSE")
"""Those whose weights are read through DEQUANTIZE, with one scale a tensor."""

LEAST = 64
"""Elements from which on weights are worth the scales."""


def quantize_weights(made: Any, unfolded: Collection[str] = ()) -> None:
    """Store the float weights of a file as int8 wherever operators take them, in place.

    unfolded: the tensors given by operators that are to compute in float, with weights that are
    given back first.
    Raises StageError where most of them are float still.
    """
    for graph in made.subgraphs:
        _Quantizing(made, graph, unfolded).run()
    files.prune(made)
    _require_int8(made)


def rounded(name: str, weights: NDArray[Any]) -> NDArray[Any]:
    """The weights of an operator, rounded to int8 steps so that filters keep their sums."""
    import numpy as np

    if weights.ndim == 2:
        return keep_sums(weights, axis=0, kernel=1)
    kernel = int(np.prod(weights.shape[1:-1]))
    if name == "DEPTHWISE_CONV_2D":
        return keep_sums(weights, axis=weights.ndim - 1, kernel=kernel)
    # [out, height, width, in], and kernels are groups of the last axes
    kept = keep_sums(np.moveaxis(weights, -1, 1), axis=0, kernel=kernel)
    return np.moveaxis(kept, 1, -1)


def _require_int8(made: Any) -> None:
    held = audited(made)
    if held.delivered == "int8":
        return
    floats: Counter[str] = Counter()
    for graph in made.subgraphs:
        for index, readers in files.constants(made, graph).items():
            if files.numpy_name(graph.tensors[index].type) == "float32":
                size = files.data_of(made, graph.tensors[index]).size
                floats.update(dict.fromkeys(readers, size))
    heaviest = ", ".join(name for name, _ in floats.most_common(3))
    raise StageError(
        f"the model holds {'too little' if held.weights.get('int8') else 'nothing'} that could be "
        f"quantized; its weights are read by {heaviest or 'no operator'}",
        fix="use tflite-fp16 for this model",
    )


class _Quantizing:
    """The weights of one subgraph."""

    def __init__(self, made: Any, graph: Any, unfolded: Collection[str]) -> None:
        self.made, self.graph, self.unfolded = made, graph, unfolded
        self.editor = files.Editor(made, graph)
        self.scales: dict[int, NDArray[Any]] = {}
        """Of tensors that are int8 already."""
        self.readers: dict[int, list[tuple[Any, int]]] = {}
        for operator in graph.operators:
            for place, index in enumerate(operator.inputs):
                self.readers.setdefault(int(index), []).append((operator, place))

    def run(self) -> None:
        """Quantize each constant that all its readers can take as int8."""
        for index in sorted(self.readers):
            if self._is_weights(index):
                roles = {self._role(operator, place) for operator, place in self.readers[index]}
                size = prod(files.signature_of(self.graph.tensors[index]))
                if size >= LEAST or roles == {"RECURRENT"}:  # whose matrices are all of one type
                    self._quantize(index, roles)

    def _is_weights(self, index: int) -> bool:
        if index < 0 or index in self.graph.outputs:
            return False
        tensor = self.graph.tensors[index]
        data = files.data_of(self.made, tensor)
        is_float = files.numpy_name(tensor.type) == "float32"
        rank = len(files.signature_of(tensor))
        return data is not None and is_float and rank > 1

    def _role(self, operator: Any, place: int) -> str:
        """What a constant is to an operator: its name, or '' where it has to stay float."""
        name = files.operator_name(self.made, operator)
        options = operator.builtinOptions
        if name in HYBRID and place == 1:
            output = files.text(self.graph.tensors[operator.outputs[0]].name)
            return f"{name} UNFOLDED" if output in self.unfolded else name
        if (
            name == "GATHER"
            and place == 0
            and not (options and (options.axis or options.batchDims))
        ):
            return (
                name if len(files.signature_of(self.graph.tensors[operator.inputs[0]])) == 2 else ""
            )
        if name in RECURRENT:
            return "RECURRENT"
        return "UNFOLDED" if name in UNFOLDED else ""

    def _quantize(self, index: int, roles: set[str]) -> None:
        tensor = self.graph.tensors[index]
        if roles <= {"FULLY_CONNECTED", "GATHER"}:
            self._store(index, "FULLY_CONNECTED", axis=0)
            for operator, _ in self.readers[index]:
                if files.operator_name(self.made, operator) == "GATHER":
                    self._scale_rows(operator, index)
        elif len(roles) == 1 and roles <= HYBRID.keys():
            (name,) = roles
            self._store(index, name, axis=HYBRID[name])
        elif roles == {"RECURRENT"}:
            self._store(index, "", axis=None)
        elif len(roles) == 1 and next(iter(roles)).endswith(" UNFOLDED"):
            name = next(iter(roles)).removesuffix(" UNFOLDED")
            self._unfold(index, tensor, name, HYBRID[name])
        elif {role.removesuffix(" UNFOLDED") for role in roles} <= {"UNFOLDED", *HYBRID}:
            self._unfold(index, tensor)

    def _store(self, index: int, name: str, *, axis: int | None) -> None:
        """Store a tensor's weights as int8, with a scale for each place along `axis`."""
        import numpy as np

        tensor = self.graph.tensors[index]
        shape = files.signature_of(tensor)
        values = files.data_of(self.made, tensor).view(np.float32).reshape(shape)
        if axis is not None:
            values = rounded(name, values)
        others = tuple(place for place in range(values.ndim) if place != axis)
        scale = np.abs(values).max(axis=others, keepdims=True) / LEVELS
        scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
        levels = np.clip(np.rint(values / scale), -LEVELS, LEVELS).astype(np.int8)
        tensor.type = files.tensor_type("int8")
        tensor.buffer = self.editor.buffer(levels)
        tensor.quantization = files.quantization(scale.ravel(), axis or 0)
        self.scales[index] = scale

    def _scale_rows(self, operator: Any, index: int) -> None:
        """GATHER of int8 rows -> CAST -> times the GATHER of the rows' scales."""
        output = int(operator.outputs[0])
        tensor = self.graph.tensors[output]
        name, shape = files.text(tensor.name), files.signature_of(tensor)
        rows = self.editor.tensor(f"{name}_int8", files.tensor_type("int8"), shape)
        floats = self.editor.tensor(f"{name}_cast", tensor.type, shape)
        table = self.scales[index]
        scales = self.editor.tensor(f"{name}_scales", tensor.type, table.shape, table)
        factor = self.editor.tensor(f"{name}_scale", tensor.type, (*shape[:-1], 1))
        self.graph.tensors[rows].quantization = files.quantization([1.0], 0)
        lookup = self.editor.operator("GATHER", [scales, operator.inputs[1]], factor)
        lookup.builtinOptionsType = operator.builtinOptionsType
        lookup.builtinOptions = operator.builtinOptions
        operator.outputs = [rows]
        product = self.editor.operator("MUL", [floats, factor], output)
        after = [self.editor.cast(rows, floats), lookup, self.editor.multiply(product)]
        position = self.graph.operators.index(operator) + 1
        self.graph.operators[position:position] = after

    def _unfold(
        self, index: int, tensor: Any, operator_name: str = "", axis: int | None = None
    ) -> None:
        """int8 weights behind a DEQUANTIZE, with a scale for each place along `axis`."""
        shape: Sequence[int] = files.signature_of(tensor)
        name = f"{files.text(tensor.name)}_float"
        output = self.editor.tensor(name, tensor.type, shape)
        self._store(index, operator_name, axis=axis)
        for operator, place in self.readers[index]:
            inputs = list(operator.inputs)
            inputs[place] = output
            operator.inputs = inputs
        self.graph.operators.insert(
            0, self.editor.operator("DEQUANTIZE", [index], output, 3 if axis is None else 5)
        )
