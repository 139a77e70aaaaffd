"""Inputs made constants, and control flow with a constant condition resolved.

All passes work on the model that they are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.onnx_clean import name_nodes
from crosscast.targets.families.onnx import graphs, opset
from crosscast.targets.families.onnx_walk import copied, inner_graphs, prune

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 2**16
"""Elements of a constant that is computed here; conditions and shapes have few."""

UNKNOWABLE = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
              "Multinomial", "If", "Loop", "Scan", "Constant")  # fmt: skip


def frozen(model: Any, constants: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The constants as the arrays that the file's inputs of those names take.

    Raises StageError for a name that is no input, and for a value that does not fit it.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in weights}
    return {name: _fitted(inputs, name, value) for name, value in constants.items()}


def freeze(model: Any, constants: Mapping[str, NDArray[Any]]) -> None:
    """Put constants in the place of inputs."""
    from onnx import numpy_helper

    for value in list(model.graph.input):
        if value.name in constants:
            tensor = numpy_helper.from_array(constants[value.name], value.name)
            model.graph.input.remove(value)
            model.graph.initializer.append(tensor)


def resolve_conditions(model: Any) -> int:
    """Put the branch that is taken in the place of each If whose condition is constant, as far as
    constants and the declared shapes tell; the number of them.
    """
    count = 0
    while any(node.op_type == "If" for node in model.graph.node):
        # one round may fold what the next infers a shape from
        folded, taken = _fold(model), _resolved(model.graph)
        count += taken
        if not (folded or taken):
            break
    if count:
        prune(model.graph)
        name_nodes(model)
    return count


def _fitted(inputs: Mapping[str, Any], name: str, value: Any) -> NDArray[Any]:
    import numpy as np
    from onnx import helper

    if name not in inputs:
        raise StageError(
            f"source.freeze: the ONNX file has no input '{name}'; it has "
            f"{', '.join(map(repr, inputs))}",
            fix="name an input as the file does",
        )
    tensor = inputs[name].type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    try:
        array = np.asarray(value)
        cast = array.astype(object if dtype.kind == "O" else dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise StageError(f"source.freeze: {value!r} is no {dtype.name} for '{name}'") from error
    if dtype.kind in "iub" and not np.array_equal(cast, array):
        raise StageError(f"source.freeze: {value!r} is no {dtype.name} for '{name}'")
    shape = _sizes(tensor)
    if not tensor.HasField("shape") or _fits(cast.shape, shape):
        return cast
    if cast.ndim == 0 and None not in shape:
        return np.full([size or 0 for size in shape], cast, cast.dtype)
    raise StageError(
        f"source.freeze: '{name}' has shape {shape}, the constant given has {list(cast.shape)}",
        fix="give a number, or nested lists of that shape",
    )


def _sizes(tensor: Any) -> list[int | None]:
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]


def _fits(found: tuple[int, ...], wanted: list[int | None]) -> bool:
    return len(found) == len(wanted) and all(
        there in (None, size) for size, there in zip(found, wanted, strict=True)
    )


def _fold(model: Any) -> int:
    """Turn the nodes into constants that depend on nothing but constants and known shapes; their
    number.
    """
    from onnx import numpy_helper

    graph = model.graph
    shapes = _shapes(model)
    known = {t.name: t for t in graph.initializer}
    needed = {value.name for value in graph.output}
    before = len(graph.node)
    for node in list(graph.node):
        for entry in node.attribute:
            if node.op_type == "Constant" and entry.name == "value":
                known[node.output[0]] = entry.t
        values = _value(node, known, shapes, opset(model))
        if values is None or needed.intersection(node.output):
            continue
        for name, array in zip(node.output, values, strict=False):
            known[name] = numpy_helper.from_array(array, name)
            graph.initializer.append(known[name])
        graph.node.remove(node)
    return before - len(graph.node)


def _resolved(graph: Any) -> int:
    """Replace each If of the graph whose condition is a constant; their number."""
    from onnx import numpy_helper

    known = {tensor.name: tensor for tensor in graph.initializer}
    taken = _names(graph)
    nodes: list[Any] = []
    count = 0
    for node in graph.node:
        condition = known.get(node.input[0]) if node.op_type == "If" else None
        if condition is None:
            nodes.append(copied(node))
            continue
        chosen = "then_branch" if numpy_helper.to_array(condition).all() else "else_branch"
        branch = next(entry.g for entry in node.attribute if entry.name == chosen)
        nodes.extend(_inlined(graph, node, branch, taken))
        count += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _inlined(graph: Any, node: Any, branch: Any, taken: set[str]) -> list[Any]:
    """The nodes of a branch with names of their own; its weights go to the graph around it."""
    from onnx import helper

    own = [tensor.name for tensor in branch.initializer]
    own += [name for made in branch.node for name in made.output if name]
    names = {name: _free(name, taken) for name in own}
    for tensor in branch.initializer:
        copy = copied(tensor)
        copy.name = names[tensor.name]
        graph.initializer.append(copy)
    made = [_renamed(copied(inner), names) for inner in branch.node]
    for given, value in zip(node.output, branch.output, strict=True):
        if given:
            source = names.get(value.name, value.name)
            made.append(helper.make_node("Identity", [source], [given]))
    return made


def _renamed(node: Any, names: Mapping[str, str]) -> Any:
    """The node with other names for what it reads and gives, also in its inner graphs."""
    for values in (node.input, node.output):
        for index, name in enumerate(values):
            values[index] = names.get(name, name)
    for inner in inner_graphs(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}
        own |= {name for made in inner.node for name in made.output}
        outer = {name: new for name, new in names.items() if name not in own}
        for made in inner.node:
            _renamed(made, outer)
        for value in inner.output:
            value.name = outer.get(value.name, value.name)
    return node


def _names(graph: Any) -> set[str]:
    """Every name of a value, here and in inner graphs."""
    return {
        name
        for owner in graphs(graph)
        for name in (
            *(value.name for value in (*owner.input, *owner.output, *owner.initializer)),
            *(name for node in owner.node for name in (*node.input, *node.output)),
        )
    }


def _free(name: str, taken: set[str]) -> str:
    """A name like this one that no value has yet: the branch that is left out may have it, too."""
    fresh, number = f"{name}_taken", 1
    while fresh in taken:
        fresh, number = f"{name}_taken{number}", number + 1
    taken.add(fresh)
    return fresh


def _value(node: Any, known: Mapping[str, Any], shapes: Mapping[str, Any], version: int) -> Any:
    """What a node gives, whatever the inputs are; None where that is not known."""
    import numpy as np

    if node.op_type == "Shape" and not node.attribute:
        shape = shapes.get(node.input[0])
        return None if shape is None or None in shape else [np.asarray(shape, np.int64)]
    if node.op_type == "Size":
        shape = shapes.get(node.input[0])
        return None if shape is None or None in shape else [np.asarray(np.prod(shape), np.int64)]
    size = _picked(node, known, shapes)
    if size is not None:
        return [size]
    inputs = [known.get(name) for name in node.input if name]
    small = all(tensor is not None and _elements(tensor) <= LARGEST for tensor in inputs)
    if node.op_type in UNKNOWABLE or node.domain or not small or not node.input:
        return None
    return _computed(node, known, version)


def _picked(node: Any, known: Mapping[str, Any], shapes: Mapping[str, Any]) -> Any:
    """The one size that a Gather takes of a shape, where it is known though others are not."""
    import numpy as np
    from onnx import numpy_helper

    if node.op_type != "Gather" or node.input[1] not in known:
        return None
    shape = shapes.get(f"{node.input[0]} holds")
    index = numpy_helper.to_array(known[node.input[1]])
    if shape is None or any(not -len(shape) <= i < len(shape) for i in index.reshape(-1)):
        return None
    sizes = [shape[int(i)] for i in index.reshape(-1)]
    return None if None in sizes else np.asarray(sizes, np.int64).reshape(index.shape)


def _shapes(model: Any) -> dict[str, Any]:
    """The shapes that the declarations lead to, None for an open size; and under "<name> holds"
    the shape that a Shape node gives.
    """
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        graph = model.graph
    found: dict[str, Any] = {
        value.name: _sizes(value.type.tensor_type)
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    found |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Shape" and not node.attribute and node.input[0] in found:
            found[f"{node.output[0]} holds"] = found[node.input[0]]
    return found


def _elements(tensor: Any) -> int:
    from math import prod

    return prod(tensor.dims)


def _computed(node: Any, known: Mapping[str, Any], version: int) -> Any:
    """The node run by itself in ONNX's reference implementation; None where it refuses."""
    import numpy as np
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    inputs = {name: numpy_helper.to_array(known[name]) for name in node.input if name}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_empty_tensor_value_info(name) for name in inputs],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    try:
        found = ReferenceEvaluator(model).run(None, inputs)
    except Exception:  # noqa: BLE001 - what cannot be computed here stays a node
        return None
    arrays = [np.asarray(value) for value in found]
    return arrays if all(array.size <= LARGEST for array in arrays) else None
