"""fp32 ONNX to int4 weights: matrix products and embeddings by blocks, each with its own scale.

ONNX Runtime's own operators (domain com.microsoft) hold them: MatMulNBits and
GatherBlockQuantized. Inputs, outputs and all other arithmetic stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import Options
from crosscast.targets.families import onnx_runtime, onnx_weights
from crosscast.targets.families.onnx import (
    carry,
    check,
    graphs,
    interface,
    load,
    save,
)
from crosscast.targets.families.onnx_audit import refuse_unless
from crosscast.targets.families.onnx_int8 import excluded_nodes
from crosscast.targets.families.onnx_stored import refuse_quantized, with_floats

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

DOMAIN = "com.microsoft"
GREATEST = 15
"""The greatest level of four bits."""

CHUNK = 1 << 22
"""Weights that are searched at once, which bounds memory."""

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
"""Shares of a block's range that are tried: cutting off an extreme can serve all the others."""


class Int4Options(Options):
    """Options of int4 quantization."""

    block_size: Literal[16, 32, 64, 128, 256] = Field(
        default=32, description="Weights that share a scale: fewer are more exact and larger."
    )
    symmetric: bool = Field(
        default=False,
        description="Levels around zero, without zero points: smaller, and less exact.",
    )
    accuracy_level: Literal[0, 1, 4] = Field(
        default=4,
        description="Least precision that ONNX Runtime computes in: 1 float32, 4 int8 (quickest), "
        "0 its own choice.",
    )
    embeddings: bool = Field(
        default=True, description="Embeddings in int4 as well, not only matrix products."
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Names of nodes, or operator types, that stay in float."
    )


def quantize(*, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path) -> None:  # noqa: ARG001
    """Write the model with int4 weights, checked; its inputs and outputs keep their dtypes.

    Raises StageError where most of the weights belong to other operators.
    """
    chosen = Int4Options.model_validate(options)
    refuse_quantized(model, target="onnx-int4")
    source = with_floats(load(model))
    signature = interface(source)
    onnx_weights.prepare(source)
    excluded = set(excluded_nodes(source, chosen.exclude, target="onnx-int4"))
    onnx_weights.split_gemms(source, lambda node: node.name not in excluded)
    if not _rewritten(source, excluded, chosen):
        raise StageError(
            "onnx-int4: the model holds no matrix products by constant weights, which are what "
            "int4 serves",
            fix="take onnx-int8 or onnx-int8-dynamic, which keep the weights of convolutions and "
            "recurrent layers as well",
        )
    _declare_domain(source)
    if interface(source) != signature:
        raise StageError("onnx-int4: quantization changed the model's inputs or outputs")
    save(source, out)
    check(out, "the quantized model")
    refuse_unless(onnx_runtime.precision(artifact=out), "int4", target="onnx-int4")
    carry(model, out)


def _rewritten(model: ModelProto, excluded: set[str], chosen: Int4Options) -> int:
    """Rewrite what int4 serves, in all graphs; give the number of matrix products."""
    names, products = onnx_weights.names_of(model.graph), 0
    for graph in graphs(model.graph):
        weights = onnx_weights.floats(graph)
        packed: dict[tuple[str, str], list[str]] = {}
        nodes = []
        for node in graph.node:
            index = {"MatMul": 1, "Gather": 0}.get(node.op_type, -1)
            tensor = weights.get(node.input[index]) if index >= 0 else None
            if tensor is None or node.name in excluded or not _serves(node, tensor, chosen):
                nodes.append(node)
                continue
            key = (node.op_type, tensor.name)
            if key not in packed:
                packed[key] = _packed(graph, node.op_type, tensor, names, chosen)
            make = _product if node.op_type == "MatMul" else _lookup
            nodes.append(make(node, tensor, packed[key], chosen))
            products += node.op_type == "MatMul"
        onnx_weights.replace_nodes(graph, nodes)
        onnx_weights.drop_unread(graph)
    return products


def _serves(node: NodeProto, tensor: TensorProto, chosen: Int4Options) -> bool:
    if len(tensor.dims) != 2 or tensor.dims[0] * tensor.dims[1] < onnx_weights.SMALLEST:
        return False
    if node.op_type == "MatMul":
        return True
    rows = onnx_weights.attribute(node, "axis", 0) in (0, -2)
    return chosen.embeddings and rows and tensor.dims[1] % chosen.block_size == 0


def _packed(
    graph: GraphProto, operator: str, tensor: TensorProto, names: set[str], chosen: Int4Options
) -> list[str]:
    """The names of the levels, scales and zero points that now stand for a weight."""
    import numpy as np
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    rows = np.ascontiguousarray(values.T) if operator == "MatMul" else values
    levels, scales, zeros = blocks(rows, chosen.block_size, symmetric=chosen.symmetric)
    if operator == "MatMul":
        parts = {"levels": _nibbles(levels), "scales": scales, "zeros": _nibbles(zeros)}
    else:
        flat = levels.reshape(len(levels), -1)
        parts = {"levels": _nibbles(flat), "scales": scales, "zeros": _nibbles(zeros)}
    if chosen.symmetric:
        del parts["zeros"]
    found = []
    for part, array in parts.items():
        found.append(onnx_weights.free(f"{tensor.name}_{operator}_{part}", names))
        graph.initializer.append(numpy_helper.from_array(array, found[-1]))
    return found


def blocks(
    rows: NDArray[Any], size: int, *, symmetric: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Levels uint8[rows, blocks, size] in 0..15, scales float32[rows, blocks] and zero points
    uint8[rows, blocks] of float32[rows, columns]; the last block is filled with zeros.

    Of several ranges for each block the one with the least squared error is taken.
    """
    import numpy as np

    count = -(-rows.shape[1] // size)
    levels = np.empty((len(rows), count, size), np.uint8)
    scales = np.empty((len(rows), count), np.float32)
    zeros = np.empty((len(rows), count), np.uint8)
    step = max(1, CHUNK // (count * size))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].astype(np.float32)
        padded = np.pad(part, ((0, 0), (0, count * size - part.shape[1])))
        place = slice(start, start + step)
        found = _searched(padded.reshape(-1, count, size), symmetric=symmetric)
        levels[place], scales[place], zeros[place] = found
    return levels, scales, zeros


def _searched(
    values: NDArray[Any], *, symmetric: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    import numpy as np

    low, high = np.minimum(values.min(-1), 0.0), np.maximum(values.max(-1), 0.0)
    best: tuple[NDArray[Any], ...] | None = None
    for shrink in SHRINKS:
        if symmetric:
            # The extreme of greatest magnitude gets the level 0, of which there is one more.
            scale = np.where(-low > high, -low, -high) * shrink / 8
            zero = np.full_like(scale, 8.0)
        else:
            scale = (high - low) * shrink / GREATEST
            zero = np.rint(-low * shrink / np.where(scale == 0.0, 1.0, scale))
        safe = np.where(scale == 0.0, 1.0, scale)[..., None]
        levels = np.clip(np.rint(values / safe) + zero[..., None], 0, GREATEST)
        error = (((levels - zero[..., None]) * safe - values) ** 2).sum(-1)
        mine = (levels, safe[..., 0], zero, error)
        if best is None:
            best = mine
            continue
        better = error < best[3]
        best = tuple(
            np.where(better[..., None] if new.ndim > better.ndim else better, new, old)
            for new, old in zip(mine, best, strict=True)
        )
    assert best is not None
    return best[0].astype(np.uint8), best[1].astype(np.float32), best[2].astype(np.uint8)


def _nibbles(levels: NDArray[Any]) -> NDArray[Any]:
    """Pairs along the last axis in one byte, the first in its lower half; 8 fills up the last."""
    import numpy as np

    if levels.shape[-1] % 2:
        edges = [(0, 0)] * (levels.ndim - 1) + [(0, 1)]
        levels = np.pad(levels, edges, constant_values=8)
    packed: NDArray[Any] = levels[..., ::2] | levels[..., 1::2] << 4
    return packed


def _product(
    node: NodeProto, tensor: TensorProto, packed: list[str], chosen: Int4Options
) -> NodeProto:
    import onnx

    level = {"accuracy_level": chosen.accuracy_level} if chosen.accuracy_level else {}
    return onnx.helper.make_node(
        "MatMulNBits",
        [node.input[0], *packed],
        list(node.output),
        node.name,
        domain=DOMAIN,
        K=tensor.dims[0],
        N=tensor.dims[1],
        bits=4,
        block_size=chosen.block_size,
        **level,
    )


def _lookup(
    node: NodeProto, tensor: TensorProto, packed: list[str], chosen: Int4Options
) -> NodeProto:
    import onnx

    return onnx.helper.make_node(
        "GatherBlockQuantized",
        [packed[0], node.input[1], *packed[1:]],
        list(node.output),
        node.name,
        domain=DOMAIN,
        bits=4,
        block_size=chosen.block_size,
        gather_axis=0,
        quantize_axis=len(tensor.dims) - 1,
    )


def _declare_domain(model: ModelProto) -> None:
    import onnx

    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
