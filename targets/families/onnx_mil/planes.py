"""Images as Core ML feeds them: planes of floats, where an ONNX graph takes uint8 pixels.

What the graph first does to the pixels is done to the planes, so that no transpose is left between
the image and a model that takes planes itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.onnx_weights import free

if TYPE_CHECKING:
    from onnx import ModelProto

TO_PIXELS, TO_PLANES = [0, 2, 3, 1], [0, 3, 1, 2]


def from_planes(model: ModelProto, name: str) -> ModelProto:
    """The model whose input of that name, uint8[n, height, width, channels] so far, is
    float32[n, channels, height, width] of the same values. Changes `model` itself.
    """
    graph = model.graph
    _declare(graph, name)
    value, is_float = name, False
    while (node := _only_reader(graph, value)) is not None and _moved(graph, node, value):
        is_float |= node.op_type == "Cast"
        value = node.output[0]
    node = _only_reader(graph, value)
    if is_float and node is not None and _is_to_planes(node):
        _bypass(graph, node, value)
    else:
        _to_pixels(graph, value, is_float=is_float)
    return model


def _declare(graph: Any, name: str) -> None:
    from onnx import TensorProto

    value = next(value for value in graph.input if value.name == name)
    held = value.type.tensor_type
    n, *sides, channels = held.shape.dim
    held.elem_type = TensorProto.FLOAT
    dims = [type(n).FromString(dim.SerializeToString()) for dim in (n, channels, *sides)]
    del held.shape.dim[:]
    held.shape.dim.extend(dims)


def _only_reader(graph: Any, value: str) -> Any:
    """The operator that reads the value where there is just one, in no branch, whose result is no
    output of the model.
    """
    readers = [node for owner in graphs(graph) for node in owner.node if value in node.input]
    here = [node for node in graph.node if value in node.input]
    outputs = {output.name for output in graph.output}
    is_only = len(readers) == len(here) == 1 and value not in outputs
    return here[0] if is_only and outputs.isdisjoint(here[0].output) else None


def _moved(graph: Any, node: Any, value: str) -> bool:
    """Whether the operator does the same to planes, once it is changed, which it is then."""
    from onnx import TensorProto

    if node.op_type == "Cast":
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
        is_moved = node.attribute[0].i in floats
    else:
        is_moved = _with_constant(graph, node, value)
    if is_moved:  # its declared type is that of pixels
        kept = [entry for entry in graph.value_info if entry.name not in node.output]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    return is_moved


def _with_constant(graph: Any, node: Any, value: str) -> bool:
    """`_moved` of an operator on the value and a constant: channels in another order, a factor or
    a sum for each.
    """
    from onnx import helper, numpy_helper

    others = [one for one in node.input if one != value]
    constant = next((one for one in graph.initializer if [one.name] == others), None)
    if constant is None or len(constant.dims) > 1:
        return False
    if node.op_type == "Gather" and node.input[0] == value and len(constant.dims) == 1:
        if [entry.i for entry in node.attribute] not in ([3], [-1]):
            return False
        node.attribute[0].CopyFrom(helper.make_attribute("axis", 1))
        return True
    if node.op_type not in ("Mul", "Add"):
        return False
    number = numpy_helper.to_array(constant).reshape(-1, 1, 1)
    own = free(f"{constant.name}_of_planes", {one.name for one in graph.initializer})
    graph.initializer.append(numpy_helper.from_array(number, own))
    node.input[:] = [value if one == value else own for one in node.input]
    return True


def _is_to_planes(node: Any) -> bool:
    return node.op_type == "Transpose" and [list(it.ints) for it in node.attribute] == [TO_PLANES]


def _bypass(graph: Any, transpose: Any, value: str) -> None:
    (made,) = transpose.output
    graph.node.remove(transpose)
    _read_instead(graph, made, value)


def _to_pixels(graph: Any, value: str, *, is_float: bool) -> None:
    """Let what reads the value read it as pixels; as integers where it has not become a float."""
    from onnx import TensorProto, helper

    taken = {one for node in graph.node for one in (*node.input, *node.output)}
    pixels, whole = free(f"{value}_pixels", taken), free(f"{value}_whole", taken)
    made = [helper.make_node("Transpose", [value], [pixels], perm=TO_PIXELS, name=pixels)]
    if not is_float:
        made.append(helper.make_node("Cast", [pixels], [whole], to=TensorProto.INT32, name=whole))
    _read_instead(graph, value, pixels if is_float else whole)
    place = next((index + 1 for index, it in enumerate(graph.node) if value in it.output), 0)
    nodes = [*graph.node[:place], *made, *graph.node[place:]]
    del graph.node[:]
    graph.node.extend(nodes)


def _read_instead(graph: Any, old: str, new: str) -> None:
    for owner in graphs(graph):
        for node in owner.node:
            node.input[:] = [new if one == old else one for one in node.input]
