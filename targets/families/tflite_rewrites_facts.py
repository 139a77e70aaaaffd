"""What is known of an ONNX graph while its operators are rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crosscast.targets.families.onnx import opset

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from crosscast.targets.families.onnx_nodes import Spelling

AXES_AS_INPUT = 18
"""The opset from which on all reductions take their axes as an input."""

Shape = tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of a graph.

    shapes: of tensors that ONNX's own inference knows; None for a dynamic dimension.
    kinds: their element types, in ONNX's numbers.
    constants: by name.
    quotients: what is divided by what, by the name of the result.
    any_batch: whether the file is to take any batch, though shapes may be fixed.
    any_size: whether it is to take any size of what comes behind the batch.
    lengths: the greatest length of each recurrent layer whose length is dynamic, by its name.
    """

    opset: int
    shapes: dict[str, Shape] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    quotients: dict[str, tuple[str, str]] = field(default_factory=dict)
    any_batch: bool = False
    any_size: bool = False
    lengths: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelProto, **asked: Any) -> Facts:
        """What inference finds. asked: what the file is to take beyond that."""
        import onnx

        try:
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except onnx.shape_inference.InferenceError:  # of a domain that ONNX does not know
            graph = model.graph
        values = {
            value.name: value.type.tensor_type
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        tensors |= {
            node.output[0]: item.t
            for node in graph.node
            if node.op_type == "Constant"
            for item in node.attribute
            if item.name == "value"
        }
        return cls(
            opset=opset(model),
            shapes={name: shape_of(kind) for name, kind in values.items() if kind.HasField("shape")}
            | {name: tuple(tensor.dims) for name, tensor in tensors.items()},
            kinds={name: kind.elem_type for name, kind in values.items()}
            | {name: tensor.data_type for name, tensor in tensors.items()},
            constants=tensors,
            quotients={
                node.output[0]: (node.input[0], node.input[1])
                for node in graph.node
                if node.op_type == "Div"
            },
            **asked,
        )

    def shape(self, name: str) -> Shape | None:
        """A tensor's shape; None where it is not known."""
        return self.shapes.get(name)

    def fixed(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape where all of it is known and fixed."""
        shape = self.shapes.get(name)
        known = tuple(size for size in shape or () if size is not None)
        return known if shape is not None and len(known) == len(shape) else None

    def spatial(self, name: str) -> tuple[int, ...] | None:
        """A tensor's dimensions behind batch and channels, where these are fixed."""
        known = tuple(size for size in (self.shapes.get(name) or ())[2:] if size is not None)
        return known if known and len(known) == len(self.shapes[name]) - 2 else None

    def constant(self, name: str) -> NDArray[Any] | None:
        """A constant's values; None for anything else."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def reduce(
        self, spell: Spelling, kind: str, name: str, axes: Sequence[int], keep: bool = True
    ) -> str:
        """A reduction in the form of the graph's opset."""
        if self.opset >= AXES_AS_INPUT or kind == "ReduceSum":
            return spell(kind, [name, spell.constant(list(axes))], keepdims=int(keep))
        return spell(kind, [name], axes=list(axes), keepdims=int(keep))


def shape_of(kind: Any) -> Shape:
    """The shape that a tensor type declares."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute's value; strings as str."""
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            if isinstance(value, bytes):
                return value.decode()
            return list(value) if item.ints or item.floats or item.strings else value
    return default
