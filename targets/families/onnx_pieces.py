"""An ONNX graph run piece by piece, every value of it seen and any of it replaced on the way.

Memory holds the values of one piece; those that later pieces read wait in files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.divergence import Made
from crosscast.pipeline.signature import Arrays
from crosscast.targets.families.onnx import MODEL, load, save
from crosscast.targets.families.onnx_walk import copied, reads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

AT_ONCE = 16
"""Nodes that are run together: all values of a large network would not fit into memory."""

FLOATS = (1, 10, 11)
"""ONNX's numbers of float32, float16 and float64."""

OWN = "/own"
"""Ends the name of what a node computes where its readers are given something else."""

ERROR = "/error"
"""Ends the name of what is added to a value."""


class Values:
    """Arrays by name, in files of a folder. Those of other values lie beneath: `under`."""

    def __init__(self, folder: Path, under: Values | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._under = under
        self._plain: dict[str, Any] = {}
        self._files: dict[str, Path] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        """Keep a value; what is no array of numbers stays in memory."""
        import numpy as np

        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            path = self._files.setdefault(name, self._folder / f"{len(self._files)}.npy")
            np.save(path, value)
        else:
            self._plain[name] = value

    def __getitem__(self, name: str) -> Any:
        """The value of that name; KeyError where there is none."""
        import numpy as np

        if name in self._files:
            return np.load(self._files[name])
        if name in self._plain or self._under is None:
            return self._plain[name]
        return self._under[name]

    def clear(self) -> None:
        """Forget all but what lies beneath."""
        self._plain.clear()
        for path in self._files.values():
            path.unlink()
        self._files.clear()

    def __contains__(self, name: str) -> bool:
        """Whether there is a value of that name."""
        known = name in self._files or name in self._plain
        return known or (self._under is not None and name in self._under)


class Pieces:
    """A model of an ONNX tree, in ONNX Runtime with its optimisations off."""

    def __init__(self, tree: Path, *, scratch: Path) -> None:
        """scratch: a folder for what is computed."""
        self._scratch = scratch
        self._model: ModelProto = load(tree)
        graph = self._model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        fixed = {*self._constants, *self._sparse}
        self._nodes: list[NodeProto] = list(graph.node)
        for node in self._nodes:
            if fixed.issuperset(reads(node)):  # no value of the network depends on constants alone
                fixed.update(node.output)
        self._fixed = fixed
        self.inputs = [value.name for value in graph.input if value.name not in self._constants]
        self.outputs = [value.name for value in graph.output]
        self.made = {each.name: each for node in self._nodes for each in self._of(node)}

    def _of(self, node: NodeProto) -> Iterator[Made]:
        read = list(dict.fromkeys(reads(node)))
        for name in node.output:
            if name and name not in self._fixed:
                yield Made(
                    name=name,
                    node=node.name or name,
                    operator=node.op_type,
                    reads=tuple(other for other in read if other not in self._fixed),
                    weights=sum(self._size(other) for other in read),
                )

    def _size(self, name: str) -> int:
        """Elements of a constant of floats; none of anything else."""
        tensor = self._constants.get(name)
        return prod(tensor.dims) if tensor is not None and tensor.data_type in FLOATS else 0

    def values(self, under: Values | None = None) -> Values:
        """Room for values, empty but for those `under` it."""
        return Values(self._scratch, under)

    def run(
        self, values: Values, *, given: Mapping[str, Any] | Values | None = None
    ) -> Iterator[tuple[str, Any]]:
        """What the nodes compute, by name and in order.

        values: holds the inputs, and takes what is computed. given: what the readers of some values
        are given in place of these.
        """
        given = {} if given is None else given
        for place in range(0, len(self._nodes), AT_ONCE):
            nodes = self._nodes[place : place + AT_ONCE]
            yield from self._piece(nodes, values, given)

    def disturbed(self, values: Values, places: Sequence[str]) -> Callable[[Arrays], Arrays]:
        """A function that gives the outputs with errors, by the value that each is added to.

        values: all of them without an error. places: the values that errors are added to.
        """
        import numpy as np

        inputs: Arrays = {name: values[name] for name in self.inputs}
        none = {name: np.zeros((), values[name].dtype) for name in places if name not in inputs}
        session = _session(self._with_errors(none))

        def outputs(errors: Arrays) -> Arrays:
            fed = {name: array + errors.get(name, 0) for name, array in inputs.items()}
            fed |= {name + ERROR: errors.get(name, zero) for name, zero in none.items()}
            return dict(zip(self.outputs, _ran(session, self.outputs, fed), strict=True))

        return outputs

    def _with_errors(self, none: Arrays) -> ModelProto:
        """The model with an input more for each of these values, which is added to it."""
        import onnx

        made = copied(self._model)
        del made.graph.node[:], made.graph.value_info[:]
        for name, zero in none.items():
            kind = onnx.helper.np_dtype_to_tensor_dtype(zero.dtype)
            made.graph.input.append(onnx.helper.make_tensor_value_info(name + ERROR, kind, None))
        for node in self._nodes:
            copy = copied(node)
            copy.output[:] = [name + OWN if name in none else name for name in node.output]
            made.graph.node.append(copy)
            made.graph.node.extend(
                onnx.helper.make_node("Add", [name + OWN, name + ERROR], [name])
                for name in node.output
                if name in none
            )
        return made

    def _piece(
        self, nodes: Sequence[NodeProto], values: Values, given: Any
    ) -> Iterator[tuple[str, Any]]:
        # those of constants alone, too: a run may start behind them
        names = [name for node in nodes for name in node.output if name]
        replaced = {name for name in names if name in given}
        computed = {name: name + OWN if name in replaced else name for name in names}
        outside = {name for node in nodes for name in reads(node)} - (set(names) - replaced)
        constants = outside & {*self._constants, *self._sparse}
        fed = {name: (given if name in replaced else values)[name] for name in outside - constants}
        model = self._submodel(nodes, computed, constants, fed)
        computing = _ran(_session(model), list(computed.values()), fed)
        for name, value in zip(names, computing, strict=True):
            values[name] = given[name] if name in replaced else value
            if name in self.made:
                yield name, value

    def _submodel(
        self,
        nodes: Sequence[NodeProto],
        computed: Mapping[str, str],
        constants: set[str],
        fed: Arrays,
    ) -> ModelProto:
        import onnx

        made = onnx.ModelProto()
        made.ir_version = self._model.ir_version
        made.opset_import.extend(self._model.opset_import)
        made.functions.extend(self._model.functions)
        made.graph.name = "piece"
        for node in nodes:
            copy = copied(node)
            copy.output[:] = [computed.get(name, name) for name in node.output]
            made.graph.node.append(copy)
        made.graph.initializer.extend(
            self._constants[name] for name in sorted(constants) if name in self._constants
        )
        made.graph.sparse_initializer.extend(
            self._sparse[name] for name in sorted(constants) if name in self._sparse
        )
        for name, value in sorted(fed.items()):
            made.graph.input.append(_declared(name, value))
        made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed.values())
        return made


def _declared(name: str, value: Any) -> Any:
    import numpy as np
    import onnx

    if not isinstance(value, np.ndarray):
        raise StageError(f"'{name}' is no tensor, and nothing but tensors can be compared")
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, value.shape)


def _session(model: ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        try:
            return onnxruntime.InferenceSession(
                Path(scratch) / MODEL, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _refused(error) from error


def _ran(session: Any, names: Sequence[str], fed: Arrays) -> list[Any]:
    try:
        values: list[NDArray[Any]] = session.run(list(names), fed)
    except Exception as error:
        raise _refused(error) from error
    return values


def _refused(error: Exception) -> StageError:
    said = str(error).partition("\n")[0]
    return StageError(f"ONNX Runtime cannot run a part of the graph: {said}")
