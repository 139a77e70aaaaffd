"""Weights of an ONNX graph: brought into the form that quantizers take as it is meant, and to int8.

Each function works in place, on all graphs of a model where it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.rounding import LEVELS, keep_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Tile": (0,),
    "Expand": (0,),
}
"""The inputs of operators that are weights where they are constant; what is repeated is such as the
positions of DeBERTa, which an export computes once."""

TABLES: Mapping[str, tuple[int, ...]] = {"Gather": (0,)}
"""Those that are looked up: embeddings."""

KERNELS = ("Conv", "ConvTranspose")
"""Those whose weights end with the axes of a kernel."""

SMALLEST = 64
"""Elements below which a weight is not worth a scale of its own."""


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    import onnx

    found = (entry for entry in node.attribute if entry.name == name)
    return next((onnx.helper.get_attribute_value(entry) for entry in found), default)


def floats(graph: GraphProto) -> dict[str, TensorProto]:
    """The float32 initializers of one graph by name."""
    import onnx

    kind = onnx.TensorProto.FLOAT
    return {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == kind}


def output_axis(node: NodeProto, rank: int) -> int:
    """The axis of output channels in the weights of an operator of WEIGHTS."""
    if node.op_type == "ConvTranspose" or node.op_type in ("LSTM", "GRU", "RNN"):
        return 1
    if node.op_type == "Conv" or attribute(node, "transB", 0):
        return 0
    return rank - 1


def prepare(model: ModelProto) -> None:
    """Name nodes, give weights that are stored transposed as they are read, split shared ones.

    Exported shapes of intermediate tensors go: they contradict those that quantizers infer.
    """
    del model.graph.value_info[:]
    name_nodes(model)
    fold_transposes(model)
    split_weights(model)


def name_nodes(model: ModelProto) -> None:
    """Give nameless nodes a name: quantizers take two nodes of one name for the same."""
    seen: set[str] = {node.name for graph in graphs(model.graph) for node in graph.node}
    for graph in graphs(model.graph):
        for index, node in enumerate(graph.node):
            if not node.name:
                node.name = free(f"{node.op_type}_{index}", seen)


def fold_transposes(model: ModelProto) -> None:
    """Replace the transposition of a weight by the weight transposed (tied embeddings)."""
    from onnx import numpy_helper

    for graph in graphs(model.graph):
        weights, names = floats(graph), names_of(graph)
        for node in [node for node in graph.node if node.op_type == "Transpose"]:
            if node.input[0] not in weights or _is_output(graph, node.output[0]):
                continue
            values = numpy_helper.to_array(weights[node.input[0]])
            turned = values.transpose(attribute(node, "perm", None))
            name = free(f"{node.input[0]}_transposed", names)
            graph.initializer.append(numpy_helper.from_array(turned.copy(), name))
            rename_input(graph, node.output[0], name)
            graph.node.remove(node)
        drop_unread(graph)


def split_weights(model: ModelProto) -> None:
    """Give each kind of reader of a weight a copy of its own.

    A scale per channel lies along the axis that the operator calls output channels: the columns
    of a MatMul are the rows of a transposing Gemm. The quantizer takes the axis of one reader for
    all, and what the others compute is wrong, silently (tied embeddings and heads).
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    names = names_of(model.graph)
    copies: dict[tuple[str, str], str] = {}
    first: dict[str, str] = {}
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        for index, name in enumerate(node.input):
            kind = _reader(node, index)
            if name not in weights or first.setdefault(name, kind) == kind:
                continue
            if (name, kind) not in copies:
                own = model.graph.initializer.add()
                own.CopyFrom(weights[name])
                own.name = copies[name, kind] = free(f"{name}_of_{node.name}", names)
            node.input[index] = copies[name, kind]


def _reader(node: NodeProto, index: int) -> str:
    """What decides on which axis an operator wants the scales of a weight."""
    transposes = [str(entry.i) for entry in node.attribute if entry.name.startswith("trans")]
    return " ".join([node.op_type, str(index), *transposes])


def split_gemms(model: ModelProto, wanted: Callable[[NodeProto], bool]) -> None:
    """Write the `wanted` Gemms by constant matrices as MatMul and Add, which quantizers take."""
    import onnx
    from onnx import numpy_helper

    for graph in graphs(model.graph):
        weights, names = floats(graph), names_of(graph)
        rewritten = []
        for node in graph.node:
            scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
            plain = node.op_type == "Gemm" and not scaled and not attribute(node, "transA", 0)
            if not plain or node.input[1] not in weights or not wanted(node):
                rewritten.append(node)
                continue
            weight = node.input[1]
            if attribute(node, "transB", 0):
                weight = free(f"{weight}_of_{node.name}", names)
                turned = numpy_helper.to_array(weights[node.input[1]]).T.copy()
                graph.initializer.append(numpy_helper.from_array(turned, weight))
            biased = len(node.input) > 2 and node.input[2]
            product = free(f"{node.output[0]}_product", names) if biased else node.output[0]
            make = onnx.helper.make_node
            rewritten.append(make("MatMul", [node.input[0], weight], [product], node.name))
            if biased:
                added = [product, node.input[2]]
                rewritten.append(make("Add", added, list(node.output), f"{node.name}_bias"))
        replace_nodes(graph, rewritten)
        drop_unread(graph)


def round_weights(model: ModelProto, wanted: Callable[[NodeProto], bool]) -> None:
    """Round the weights of the `wanted` nodes of the main graph to int8, sums of filters kept."""
    from onnx import numpy_helper

    weights = floats(model.graph)
    for node in model.graph.node:
        if node.op_type not in (*KERNELS, "Gemm", "MatMul") or not wanted(node):
            continue
        tensor = weights.pop(node.input[1], None)
        if tensor is None:
            continue
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2 or node.op_type in KERNELS:
            kernel = 1
            for size in values.shape[2:]:
                kernel *= size
            rounded = keep_sums(values, axis=output_axis(node, values.ndim), kernel=kernel)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def to_int8(
    model: ModelProto,
    *,
    wanted: Callable[[NodeProto], bool],
    per_channel: bool = True,
    spared: Collection[str] = (),
) -> None:
    """Store the float weights of the `wanted` nodes of all graphs as int8; they compute in float.
    Those named in `spared` stay.

    Cast and Mul give the weights back: runtimes fold these when they load the model, which they
    do not with DequantizeLinear (EfficientNet-Lite0 runs at float's speed; three times slower).
    What is looked up is given back after it was.
    """
    names = names_of(model.graph)
    for graph in graphs(model.graph):
        own = floats(graph)
        restored: dict[str, list[NodeProto]] = {}
        lookups: dict[str, list[NodeProto]] = {}
        for node in (node for inner in graphs(graph) for node in inner.node if wanted(node)):
            for index in WEIGHTS.get(node.op_type, ()):
                tensor = own.get(node.input[index])
                if tensor is not None and worth(tensor) and tensor.name not in spared:
                    axis = output_axis(node, len(tensor.dims)) if per_channel else None
                    if tensor.name not in restored:
                        restored[tensor.name] = _stored(graph, tensor, names, axis)
                    node.input[index] = restored[tensor.name][-1].output[0]
        for node in graph.node:
            table = own.get(node.input[0]) if node.op_type in TABLES and wanted(node) else None
            if table is not None and worth(table) and table.name not in spared:
                lookups[node.output[0]] = _looked_up(graph, node, table, names)
        first = [node for nodes in restored.values() for node in nodes]
        nodes = [made for node in graph.node for made in lookups.get(node.output[0], [node])]
        replace_nodes(graph, [*first, *nodes])
        drop_unread(graph)


def as_int8(
    model: ModelProto, *, wanted: Callable[[NodeProto], bool], per_channel: bool = True
) -> dict[str, NDArray[Any]]:
    """What `to_int8` makes of the weights of the main graph, by name."""
    from numpy import float32
    from onnx import numpy_helper

    own = floats(model.graph)
    made: dict[str, NDArray[Any]] = {}
    for node in filter(wanted, model.graph.node):
        for index in (*WEIGHTS.get(node.op_type, ()), *TABLES.get(node.op_type, ())):
            tensor = own.get(node.input[index])
            if tensor is not None and worth(tensor) and tensor.name not in made:
                is_table = node.op_type in TABLES
                axis = None if is_table or not per_channel else output_axis(node, len(tensor.dims))
                levels, scale = quantized(numpy_helper.to_array(tensor), axis)
                made[tensor.name] = levels.astype(float32) * scale
    return made


def arrays(graph: GraphProto) -> dict[str, NDArray[Any]]:
    """The values of a graph's float32 initializers by name."""
    from onnx import numpy_helper

    return {name: numpy_helper.to_array(tensor) for name, tensor in floats(graph).items()}


def copied(model: ModelProto) -> ModelProto:
    """A copy of a model."""
    made = type(model)()
    made.CopyFrom(model)
    return made


def replace(graph: GraphProto, values: Mapping[str, NDArray[Any]]) -> None:
    """Give initializers of those names other values."""
    from onnx import numpy_helper

    for tensor in graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))


def worth(tensor: TensorProto) -> bool:
    """Whether a tensor is large enough for its bytes to count."""
    size = 1
    for dim in tensor.dims:
        size *= dim
    return len(tensor.dims) > 1 and size >= SMALLEST


def _stored(
    graph: GraphProto, tensor: TensorProto, names: set[str], axis: int | None
) -> list[NodeProto]:
    """The nodes that give back a weight, which the graph then holds in int8."""
    import onnx
    from onnx import numpy_helper

    levels, scale = quantized(numpy_helper.to_array(tensor), axis)
    parts = {"quantized": levels, "scale": scale}
    held, factor = (free(f"{tensor.name}_{part}", names) for part in parts)
    for name, array in zip((held, factor), parts.values(), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    wide, restored = (free(f"{tensor.name}_{part}", names) for part in ("cast", "restored"))
    make = onnx.helper.make_node
    return [
        make("Cast", [held], [wide], wide, to=onnx.TensorProto.FLOAT),
        make("Mul", [wide, factor], [restored], restored),
    ]


def _looked_up(
    graph: GraphProto, node: NodeProto, table: TensorProto, names: set[str]
) -> list[NodeProto]:
    cast, scaled = _stored(graph, table, names, None)
    lookup = type(node)()
    lookup.CopyFrom(node)
    lookup.input[0] = cast.input[0]
    lookup.output[0] = cast.input[0] = free(f"{node.output[0]}_quantized", names)
    scaled.output[0] = node.output[0]
    return [lookup, cast, scaled]


def quantized(values: NDArray[Any], axis: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Symmetric int8, and the float32 scale to multiply it with: one for each index of `axis`, or
    a scalar for all.
    """
    import numpy as np

    others = tuple(index for index in range(values.ndim) if index != axis)
    peak = np.abs(values).max(axis=others if axis is not None else None, keepdims=axis is not None)
    scale = np.maximum(peak / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)
    levels = np.clip(np.rint(values / scale), -LEVELS, LEVELS).astype(np.int8)
    return levels, scale


def rename_input(graph: GraphProto, old: str, new: str) -> None:
    """Let all that read `old`, in this graph and those inside it, read `new`."""
    for inner in graphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        for value in inner.output:
            if value.name == old and inner is not graph:
                value.name = new


def rename_tensor(graph: GraphProto, old: str, new: str) -> None:
    """Give a tensor of the graph another name, where it is made and where it is read."""
    rename_input(graph, old, new)
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    for tensor in graph.initializer:
        if tensor.name == old:
            tensor.name = new


def replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Put other nodes, in order, in the place of a graph's own."""
    # The list may hold nodes of the graph itself, which deleting invalidates.
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def drop_unread(graph: GraphProto) -> None:
    """Remove the initializers that nothing reads."""
    read = read_in(graph)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


def read_in(graph: GraphProto) -> set[str]:
    """The names of the tensors that a graph, or one inside it, reads or gives."""
    read = {name for inner in graphs(graph) for node in inner.node for name in node.input}
    return read | {value.name for inner in graphs(graph) for value in inner.output}


def names_of(graph: GraphProto) -> set[str]:
    """All names of tensors in a graph and those inside it."""
    return {name for inner in graphs(graph) for name in _names(inner)}


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    yield from (name for node in graph.node for name in (*node.input, *node.output))


def _is_output(graph: GraphProto, name: str) -> bool:
    return any(value.name == name for value in graph.output)


def free(name: str, taken: set[str]) -> str:
    """A name like this that is not taken; it is from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
