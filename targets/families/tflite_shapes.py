"""The shapes in an ONNX graph: those that are declared, that follow, and that are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
"""Of inputs, by name."""


def output_shapes(path: Path, shapes: Shapes) -> list[tuple[int | None, ...] | None]:
    """The shapes of an ONNX file's outputs for inputs of these shapes; None for a shape or a size
    that is not told.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    sizes = {
        dim.dim_param: size
        for value in graph.input
        for dim, size in zip(
            value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False
        )
        if dim.dim_param
    }
    declared = [
        tuple(dim.dim_value or sizes.get(dim.dim_param) for dim in value.type.tensor_type.shape.dim)
        for value in graph.output
        if value.type.tensor_type.HasField("shape")
    ]
    if len(declared) == len(graph.output) and not any(None in shape for shape in declared):
        return [*declared]
    known = inferred_shapes(with_shapes(onnx.load(str(path)), shapes))
    return [known.get(value.name) for value in graph.output]


def with_shapes(model: Any, shapes: Shapes) -> Any:
    """The model with its inputs' shapes fixed, and folded."""
    for value in model.graph.input:
        sizes = shapes.get(value.name, ())
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            dim.dim_value = size
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.ClearField("dim_param")
    del model.graph.value_info[:]
    return folded(model)


def folded(model: Any) -> Any:
    """The model with constants folded; itself where that fails."""
    import onnxslim

    try:
        return onnxslim.slim(model)
    except (Exception, SystemExit):  # noqa: BLE001 - a simplifier that fails costs nothing
        return model


def inferred_shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    """The shape of every tensor that ONNX's own inference knows; None for a dynamic dimension."""
    from onnx import shape_inference

    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except shape_inference.InferenceError:  # an operator of a domain that ONNX does not know
        graph = model.graph
    known = {
        value.name: declared_shape(value.type.tensor_type)
        for value in [*graph.input, *graph.value_info, *graph.output]
        if value.type.tensor_type.HasField("shape")
    }
    return known | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def declared_shape(tensor: Any) -> tuple[int | None, ...]:
    """The shape that a value declares, None for a dynamic dimension."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
