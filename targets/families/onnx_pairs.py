"""QuantizeLinear and DequantizeLinear around the nodes of an ONNX graph that compute in int8."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from crosscast.pipeline.errors import StageError
from crosscast.targets.families import onnx_weights
from crosscast.targets.families.onnx import graphs
from crosscast.targets.families.onnx_bias import COPY
from crosscast.targets.families.onnx_calibrate import Measured

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PRODUCTS = ("Gemm", "MatMul")
"""Matrix products: their results stay in float, which costs ONNX Runtime no kernel."""

COMPUTING = (*onnx_weights.KERNELS, *PRODUCTS)
"""Operators with weights that compute in int8."""

FRAGILE_DB = 28.0
"""Signal-to-noise ratio in int8 below which what a matrix product reads is first to stay in float,
and only its weights become int8: a few values so large that all others share a few levels. The
worst samples of MiniLM gain 4 dB by it; in networks without such outliers no tensor is below 34 dB.
"""


class PairOptions(Protocol):
    """How weights and activations become int8."""

    @property
    def per_channel(self) -> bool:
        """Whether each channel of a weight has a scale of its own."""
        ...

    @property
    def reduce_range(self) -> bool:
        """Whether weights have 7 bits."""
        ...

    @property
    def activation(self) -> str:
        """The type of activations: uint8 or int8."""
        ...


def isolated(model: ModelProto, nodes: Collection[str]) -> ModelProto:
    """Give the nodes that compute copies of what others read in float as well.

    Otherwise those others, such as residual sums, would read rounded values, too.
    """
    import onnx

    taken = onnx_weights.names_of(model.graph)
    in_float = {value.name for value in model.graph.output}
    for graph in graphs(model.graph):
        for node in graph.node:
            if graph is not model.graph or node.name not in nodes:
                in_float.update(node.input)
    copies: dict[str, str] = {}
    for node in model.graph.node:
        if node.name in nodes and node.op_type in COMPUTING and node.input[0] in in_float:
            source = node.input[0]
            if source not in copies:
                copies[source] = onnx_weights.free(f"{source}{COPY}", taken)
            node.input[0] = copies[source]
    made = {
        source: onnx.helper.make_node("Identity", [source], [copy], copy)
        for source, copy in copies.items()
    }
    ordered = [made[value.name] for value in model.graph.input if value.name in made]
    for node in model.graph.node:
        ordered.append(node)
        ordered.extend(made[name] for name in node.output if name in made)
    onnx_weights.replace_nodes(model.graph, ordered)
    return model


def without_copies(model: ModelProto) -> None:
    """Let the readers of the copies read their sources again."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Identity" and COPY in node.output[0]:
            onnx_weights.rename_input(model.graph, node.output[0], node.input[0])
        else:
            kept.append(node)
    onnx_weights.replace_nodes(model.graph, kept)


def activations(model: ModelProto, nodes: Collection[str]) -> list[str]:
    """The float tensors that are int8 where the nodes are, weights left out."""
    import onnx

    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {
        name: None
        for node in model.graph.node
        if node.name in nodes
        for name in touched(node)
        if kinds.get(name) == onnx.TensorProto.FLOAT and name not in weights
    }
    return list(found)


def touched(node: NodeProto) -> Iterator[str]:
    """The tensors of a node that are int8 where it is."""
    yield from node.input
    if node.op_type not in PRODUCTS:
        yield from node.output


def bears(node: NodeProto, found: Collection[str], floats: Collection[str]) -> bool:
    """Whether what a node reads and writes can be int8: whether there is a range for it."""
    return all(name in found or name not in floats for name in touched(node))


def fragile(model: ModelProto, nodes: Collection[str], found: Mapping[str, Measured]) -> list[str]:
    """What the computing ones of the nodes read that int8 holds badly, worst first."""
    read = {
        node.input[0]: found[node.input[0]].snr_db
        for node in model.graph.node
        if node.name in nodes and node.op_type in COMPUTING and node.input[0] in found
    }
    return sorted((name for name in read if read[name] < FRAGILE_DB), key=read.__getitem__)


def with_pairs(
    model: ModelProto, nodes: Collection[str], found: Mapping[str, Measured], chosen: PairOptions
) -> ModelProto:
    """The model with pairs of QuantizeLinear and DequantizeLinear around the nodes."""
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    # numpy's own scalars: the quantizer asks for their dtype.
    ends = {name: (np.float32(one.low), np.float32(one.high)) for name, one in found.items()}
    metadata = list(model.metadata_props)
    add_infer_metadata(model)
    try:
        with quiet():
            quantizer = QDQQuantizer(
                model,
                chosen.per_channel,
                chosen.reduce_range,
                QuantType.QInt8,
                types[chosen.activation],
                TensorsData(CalibrationMethod.MinMax, ends),
                sorted(nodes),
                [],
                sorted({node.op_type for node in model.graph.node}),
                {"OpTypesToExcludeOutputQuantization": list(PRODUCTS)},
            )
            result: ModelProto = quantizer.quantize_model()
            quantizer.model.topological_sort()
    except Exception as error:
        raise StageError(
            f"onnx-int8: the model cannot be quantized: {error}",
            fix="keep the operator that is named out of it: 'quantize: {exclude: [...]}'",
        ) from error
    del result.metadata_props[:]
    result.metadata_props.extend(metadata)
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the quantizer's advice to pre-process, which has been done, out of the log."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
