"""The walk through an ONNX graph: each operator folded, or lowered by the table."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.coreml_names import identifier
from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.onnx_mil import control
from crosscast.targets.families.onnx_mil.folding import folded
from crosscast.targets.families.onnx_mil.node import MAX_RANK, REMEDY, Node, Operand, Wide
from crosscast.targets.families.onnx_mil.ops.table import TABLE
from crosscast.targets.families.onnx_mil.values import shape

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Values = MutableMapping[str, Operand]


class Walk:
    """Lowers graphs of one model.

    mb: coremltools' builder, within a function. system: the oldest iOS that runs the program.
    """

    def __init__(self, model: ModelProto, *, mb: Any, system: int) -> None:
        self.mb = mb
        self.system = system
        self._opsets = list(model.opset_import)
        self._dtypes = dict(_dtypes(model.graph))
        self._used = frozenset(_used(model.graph))

    def graph(self, graph: GraphProto, values: Values) -> list[Operand]:
        """The outputs of a graph; what it computes is added to `values`, by name."""
        for name, array in _weights(graph):
            values[name] = array
        for proto in graph.node:
            results = self.node(proto, values)
            for name, value in zip(proto.output, results, strict=False):
                if name:
                    values[name] = self._settled(name, value)
                    _call(values[name], name)
        return [values[output.name] for output in graph.output]

    def inner(
        self, graph: GraphProto, values: Values, given: Mapping[str, Operand]
    ) -> list[Operand]:
        """The outputs of a graph within an operator, which sees the values outside it too."""
        return self.graph(graph, ChainMap(dict(given), values))

    def node(self, proto: NodeProto, values: Values) -> tuple[Operand, ...]:
        """The results of one operator. Raises StageError, which names it, where it has no form in
        MIL.
        """
        operands = [values[name] if name else None for name in proto.input]
        results = folded(proto, operands, self._opsets)
        if results is not None:
            return results
        node = Node(
            proto,
            operands,
            mb=self.mb,
            system=self.system,
            dtypes=[self._dtypes.get(name, "") for name in proto.input],
            outputs=[name if name in self._used else "" for name in proto.output],
        )
        try:
            return self._lowered(node, values)
        except (StageError, MemoryError):
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:400]
            raise node.refused(f"{type(error).__name__}: {said}") from error

    def _lowered(self, node: Node, values: Values) -> tuple[Operand, ...]:
        if node.kind in control.TABLE:
            return control.TABLE[node.kind](node, self, values)
        if node.kind not in TABLE:
            raise StageError(
                f"Core ML from ONNX: there is no equivalent of operator {node.kind} "
                f"(layer {node.layer})",
                fix=REMEDY,
            )
        made = TABLE[node.kind](node)
        node.refuse_unread()
        results = made if isinstance(made, tuple) else (made,)
        if any(node.wants(index) for index in range(len(results), len(node.outputs))):
            unmade = next(filter(None, node.outputs[len(results) :]))
            raise node.refused(f"its output '{unmade}' is not supported")
        for value in results:
            if not isinstance(value, (np.ndarray, np.generic, Wide)):
                _require_shape(node, value)
        return results

    def _settled(self, name: str, value: Operand) -> Operand:
        """What MIL has found to be constant, as a numpy array of its ONNX dtype."""
        if isinstance(value, np.ndarray):
            self._dtypes[name] = value.dtype.name
            return value
        if isinstance(value, np.generic):
            return self._settled(name, np.asarray(value))
        if isinstance(value, Wide) or value.val is None:
            return value
        array = np.asarray(value.val)
        dtype = self._dtypes.get(name) or ("int64" if array.dtype == np.int32 else array.dtype.name)
        return array.astype(dtype)


def _call(value: Operand, name: str) -> None:
    """Give what MIL has named itself the name that it has in the ONNX model, so that people find
    it there.
    """
    operation = getattr(value, "op", None)
    if operation is None or not re.fullmatch(rf"{operation.op_type}(_\d+)+", value.name):
        return
    value.set_name(identifier(name))
    if len(operation.outputs) == 1:
        operation.name = value.name


def _require_shape(node: Node, value: Operand) -> None:
    """Raise StageError for a tensor that a ML Program cannot hold."""
    if value.rank > MAX_RANK:
        raise node.too_wide(value.rank)
    if any(size == 0 for size in shape(value)):
        raise node.refused("a tensor without elements, which Core ML has not")


def _weights(graph: GraphProto) -> Iterator[tuple[str, Any]]:
    from onnx import numpy_helper

    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for sparse in graph.sparse_initializer:
        raise StageError(
            f"Core ML from ONNX: weight '{sparse.values.name}' is sparse",
            fix="store it dense, or remove this target",
        )


def _used(graph: GraphProto) -> Iterator[str]:
    """The names of all values that something reads."""
    for one in graphs(graph):
        for node in one.node:
            yield from node.input
        yield from (output.name for output in one.output)


def _dtypes(graph: GraphProto) -> Iterator[tuple[str, str]]:
    """Numpy's names of the dtypes of all values, by name."""
    from onnx import helper

    for one in graphs(graph):
        for value in (*one.input, *one.value_info, *one.output):
            kind = value.type.tensor_type.elem_type
            if kind:
                yield value.name, helper.tensor_dtype_to_np_dtype(kind).name
