"""The shapes that an ONNX file declares, and those that the config declares in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZED_BY_VALUES = (
    "NonZero", "NonMaxSuppression", "Unique", "Compress", "StringSplit", "If", "Loop", "Scan",
)  # fmt: skip
"""Operators whose outputs' sizes may depend on what their inputs hold."""

ANONYMOUS = ("", "?", "-1", "None", "none", "unk", "unknown")
"""Names that exporters give to every open dimension: equal ones need not have equal sizes."""

TOLERANCE = 1e-3
"""Of a row's answer alone and in a batch, relative to the greatest: sums are taken in another
order, while the rows of a batch that a graph mixes up have nothing in common."""


def shape_of(tensor: Any, prefix: str) -> tuple[int | str, ...]:
    """A declared shape: sizes, and names for open dimensions, `prefix`_<axis> for nameless ones."""
    return tuple(
        dim.dim_value
        if dim.HasField("dim_value") and dim.dim_value > 0
        else _name(dim.dim_param, f"{prefix}_{axis}")
        for axis, dim in enumerate(tensor.shape.dim)
    )


def open_inputs(model: Any) -> list[Tensor]:
    """The inputs with the shapes that the file declares, where it declares one."""
    return [
        Tensor(name=value.name, shape=shape_of(value.type.tensor_type, "dim"), dtype="")
        for value in _inputs(model)
        if value.type.tensor_type.HasField("shape")
    ]


def contradicts(model: Any, signature: Signature) -> bool:
    """Whether the signature's inputs can have sizes that the file rules out."""
    ours = {tensor.name: tensor.shape for tensor in signature.inputs}
    return any(
        isinstance(there, int) and here != there
        for tensor in open_inputs(model)
        if tensor.name in ours
        for here, there in zip(ours[tensor.name], tensor.shape, strict=True)
    )


def is_redeclared(model: Any, signature: Signature) -> bool:
    """Whether the file's inputs have to be declared anew: they rule out sizes that the signature
    has, or have sizes that no tensor has.
    """
    return contradicts(model, signature) or any(_is_broken(value) for value in _inputs(model))


def declare_inputs(model: Any, inputs: Sequence[Tensor]) -> Any:
    """The model with these shapes; what follows from others is removed. Changes it itself."""
    ours = {tensor.name: tensor for tensor in inputs}
    for value in model.graph.input:
        if value.name in ours:
            _declare(value, ours[value.name].shape)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return model


def declare_outputs(model: Any, outputs: Sequence[Tensor]) -> Any:
    """The model with these shapes of its outputs. Changes it itself."""
    for value, tensor in zip(model.graph.output, outputs, strict=True):
        _declare(value, tensor.shape)
    return model


def told_outputs(model: Any) -> list[tuple[int | str, ...] | None]:
    """The outputs' shapes as the file declares them; None where it declares none."""
    return [
        shape_of(value.type.tensor_type, value.name)
        if value.type.tensor_type.HasField("shape")
        else None
        for value in model.graph.output
    ]


def settled(
    model: Any, signature: Signature, told: Sequence[tuple[int | str, ...] | None]
) -> tuple[Tensor, ...]:
    """The outputs of the signature, whose shapes two runs have shown, with open dimensions where
    these happened to agree: a size is fixed where inference finds it, or the file says so, or
    where there is nothing that it could depend on.

    told: what the file says; None where it says nothing, or says it of other inputs.
    """
    if not signature.dims and not _sized_by_values(model):
        return signature.outputs
    inferred = _inferred(model)
    return tuple(
        _settled(tensor, inferred.get(value.name, ()), said)
        for tensor, value, said in zip(signature.outputs, model.graph.output, told, strict=True)
    )


def _settled(
    tensor: Tensor,
    inferred: tuple[int | str, ...],
    told: tuple[int | str, ...] | None,
) -> Tensor:
    rank = len(tensor.shape)
    by_file = told if told is not None and len(told) == rank else (None,) * rank
    by_graph = inferred if len(inferred) == rank else (None,) * rank
    shape = tuple(
        dim
        if isinstance(dim, str) or dim in (by_file[axis], by_graph[axis])
        else f"{tensor.name}_dim{axis}"
        for axis, dim in enumerate(tensor.shape)
    )
    return replace(tensor, shape=shape)


def _sized_by_values(model: Any) -> bool:
    """Whether an output's size may depend on what the inputs hold, not on their shapes alone:
    also by vectors and scalars of integers, which may be sizes.
    """
    from onnx import TensorProto

    integers = (TensorProto.INT32, TensorProto.INT64)
    kinds = [value.type.tensor_type for value in _inputs(model)]
    return any(node.op_type in SIZED_BY_VALUES for node in model.graph.node) or any(
        kind.elem_type in integers and len(kind.shape.dim) < 2 for kind in kinds
    )


def _inferred(model: Any) -> dict[str, tuple[int | str, ...]]:
    """The outputs' shapes that follow from the inputs'."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    return {value.name: shape_of(value.type.tensor_type, value.name) for value in graph.output}


def fixed_batch(model: Any, signature: Signature) -> int | None:
    """The batch that the file fixes where the signature leaves it open; None where it does not."""
    from crosscast.pipeline.parity.samples import batch_dim

    if batch_dim(signature) is None:
        return None
    ours = {tensor.name for tensor in signature.inputs}
    heads = {tensor.shape[0] for tensor in open_inputs(model) if tensor.name in ours}
    head = heads.pop() if len(heads) == 1 else None
    return head if isinstance(head, int) else None


def require_rows_apart(
    original: Callable[[Arrays], list[NDArray[Any]]],
    redeclared: Callable[[Arrays], Arrays],
    signature: Signature,
    rows: int,
) -> None:
    """Raise StageError where the graph is made for the batch that the file fixes.

    It then runs on others without complaint, and mixes their rows: what it gives for the first
    `rows` of a larger batch is not what it gives for these alone.
    """
    from crosscast.pipeline.parity.samples import batch_dim, example

    batch = str(batch_dim(signature))
    low, high = signature.dims[batch]
    more = max(low, min(high, rows + 1))
    if more <= rows:
        return
    wide = replace(signature, dims={**signature.dims, batch: (more, more)})
    inputs = example(wide)
    together = list(redeclared(inputs).values())
    alone = original({name: array[:rows] for name, array in inputs.items()})
    for got, wanted in zip(together, alone, strict=True):
        if not _is_part(wanted, got, rows, more):
            raise StageError(
                f"the ONNX file's graph is made for a batch of {rows}: in a batch of {more} the "
                "first rows give something else (a Reshape to constant sizes does that)",
                fix=f"declare a fixed batch of {rows}, or export the model with a dynamic one",
            )


def _is_part(part: NDArray[Any], whole: NDArray[Any], rows: int, more: int) -> bool:
    """Whether `part` is the first rows of `whole`, on whichever axis counts them."""
    import numpy as np

    if part.ndim != whole.ndim:
        return False
    axes = [axis for axis, (a, b) in enumerate(zip(part.shape, whole.shape, strict=True)) if a != b]
    if len(axes) > 1 or any((part.shape[a], whole.shape[a]) != (rows, more) for a in axes):
        return False
    first = whole.take(range(rows), axis=axes[0]) if axes else whole
    if part.dtype.kind not in "fc":
        return bool(np.array_equal(part, first))
    scale = np.abs(part[np.isfinite(part)]).max(initial=0)
    return bool(np.allclose(part, first, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True))


def _name(given: str, otherwise: str) -> str:
    return otherwise if given.strip("?") in ANONYMOUS else given


def _inputs(model: Any) -> list[Any]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _is_broken(value: Any) -> bool:
    """Whether a size is declared that no tensor has."""
    dims = value.type.tensor_type.shape.dim
    return any(dim.HasField("dim_value") and dim.dim_value <= 0 for dim in dims)


def _declare(value: Any, shape: Sequence[int | str]) -> None:
    from onnx import helper

    kind = value.type.tensor_type.elem_type
    value.type.CopyFrom(helper.make_tensor_type_proto(kind, list(shape)))
