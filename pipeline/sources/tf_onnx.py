"""ONNX from a traced TensorFlow function, by tf2onnx, with what it gets wrong put right."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.tf_model import brief
from crosscast.pipeline.sources.tf_recurrent import CARRIER
from crosscast.targets.families import onnx as trees

DEFAULT_OPSET = 18
OPSETS = range(13, 24)
"""tf2onnx writes 13 to 18; above, the model is brought up from 18."""

HIGHEST = 18
_FIX = "write the layer with other operations, or leave the targets that start from ONNX out"


def converted(function: Any, signature: Signature, *, opset: int | None) -> Any:
    """The ONNX model of a concrete function, with the signature's names, order and dimensions.

    Raises StageError where an operator has no ONNX equivalent, naming its layer.
    """
    wanted = DEFAULT_OPSET if opset is None else opset
    if wanted not in OPSETS:
        raise StageError(
            f"TensorFlow models cannot be exported to ONNX opset {wanted}",
            fix=f"ask for an opset from {OPSETS.start} to {OPSETS.stop - 1}; "
            f"{DEFAULT_OPSET} is the default",
        )
    model = _by_tf2onnx(function, min(wanted, HIGHEST))
    _refuse_foreign(model)
    _name(model, function, signature)
    model.producer_name, model.producer_version, model.graph.name = "", "", "model"
    return model if wanted <= HIGHEST else _raised(model, wanted)


def try_out(tree: Path, signature: Signature) -> None:
    """Run the model of a tree once. Raises StageError where ONNX Runtime cannot."""
    import onnxruntime

    from crosscast.pipeline.parity.samples import example  # not above: it needs numpy

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            tree / trees.MODEL, options, providers=["CPUExecutionProvider"]
        )
        session.run(None, example(signature))
    except Exception as error:
        raise StageError(
            f"ONNX Runtime cannot run the exported model: {brief(error)}", fix=_FIX
        ) from error


def _by_tf2onnx(function: Any, opset: int) -> Any:
    import tf2onnx

    log = _Log()
    logger = logging.getLogger("tf2onnx")
    logger.addHandler(log)
    try:
        graph = function.graph.as_graph_def(add_shapes=True)
        model, _ = tf2onnx.convert.from_graph_def(
            graph,
            input_names=[tensor.name for tensor in function.inputs],
            output_names=[tensor.name for tensor in function.outputs],
            opset=opset,
            custom_op_handlers={name: (handler, []) for name, handler in HANDLERS.items()},
        )
    except Exception as error:
        raise StageError(
            f"tf2onnx could not convert the model: {brief(error)}{log.told()}", fix=_FIX
        ) from error
    finally:
        logger.removeHandler(log)
    return model


class _Log(logging.Handler):
    """Keeps the errors of which tf2onnx only logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split())[:300])

    def told(self) -> str:
        """The first lines, for a message."""
        return "".join(f"\n  {line}" for line in self.lines[:3])


def _refuse_foreign(model: Any) -> None:
    """Raise StageError for operators that are none of ONNX'."""
    import onnx

    version = trees.opset(model)
    found: dict[str, None] = {}
    for graph in trees.graphs(model.graph):
        for node in graph.node:
            known = node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, version, "")
            if not known:
                found[f"{node.op_type} (layer {_layer(node.name)})"] = None
    if found:
        raise StageError(f"operator {', '.join(found)} has no ONNX equivalent", fix=_FIX)


def _layer(name: str) -> str:
    """A node's name without the wrappers around the model."""
    return re.sub(r"^(StatefulPartitionedCall|PartitionedCall)/", "", name)


def _name(model: Any, function: Any, signature: Signature) -> None:
    """Give inputs and outputs the signature's names, order and dimensions."""
    graph = model.graph
    pairs = [
        *zip(function.inputs, signature.inputs, strict=True),
        *zip(function.outputs, signature.outputs, strict=True),
    ]
    aside = _inner_names(graph, {tensor.name for _, tensor in pairs})
    _rename(graph, aside | {found.name: tensor.name for found, tensor in pairs})
    for values, tensors in ((graph.input, signature.inputs), (graph.output, signature.outputs)):
        made = [_declared(tensor) for tensor in tensors]
        del values[:]
        values.extend(made)
    del graph.value_info[:]  # it bears the old names and dimensions


def _inner_names(graph: Any, wanted: set[str]) -> dict[str, str]:
    """New names for the graph's own values that have one of the wanted names."""
    return {
        output: f"{output}_inner"
        for inner in trees.graphs(graph)
        for node in inner.node
        for output in node.output
        if output in wanted
    }


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for inner in trees.graphs(graph):
        for node in inner.node:
            for values in (node.input, node.output):
                for index, value in enumerate(values):
                    values[index] = names.get(value, value)
        for value in (*inner.input, *inner.output, *inner.initializer):
            value.name = names.get(value.name, value.name)


def _declared(tensor: Tensor) -> Any:
    import numpy as np
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, kind, list(tensor.shape))


def _raised(model: Any, opset: int) -> Any:
    import onnx

    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:
        raise StageError(
            f"the exported model cannot be brought from opset {HIGHEST}, the highest that tf2onnx "
            f"writes, to {opset}: {brief(error)}",
            fix=f"ask for opset {HIGHEST}",
        ) from error


# What tf2onnx has no handler for, or a poor one


def _erfc(ctx: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001 - its protocol
    """1 - erf(x): tf2onnx leaves the operator of exact GELU as it is, which ONNX does not have."""
    import numpy as np

    dtype = ctx.get_dtype(node.output[0])
    kind = np.float64 if dtype == 11 else np.float32
    one = ctx.make_const(f"{name}_one", np.array(1, kind)).output[0]
    shape = ctx.get_shape(node.output[0])
    inner = ctx.make_node("Erf", [node.input[0]], shapes=[shape], dtypes=[dtype])
    ctx.remove_node(name)
    ctx.make_node(
        "Sub", [one, inner.output[0]], name=name, outputs=node.output, shapes=[shape],
        dtypes=[dtype],
    )  # fmt: skip


def _reverse(ctx: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001 - its protocol
    """Slices of step -1: tf2onnx writes ReverseSequence between transposes."""
    import numpy as np

    shape, dtype = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
    axes = np.atleast_1d(node.inputs[1].get_tensor_value(as_list=False)).astype(np.int64)
    bounds = [
        ctx.make_const(f"{name}_{what}", values).output[0]
        for what, values in (
            ("starts", np.full_like(axes, -1)),
            ("ends", np.full_like(axes, np.iinfo(np.int64).min)),
            ("axes", axes),
            ("steps", np.full_like(axes, -1)),
        )
    ]
    outputs, source = list(node.output), node.input[0]
    ctx.remove_node(name)
    ctx.make_node(
        "Slice", [source, *bounds], name=name, outputs=outputs, shapes=[shape], dtypes=[dtype]
    )


def _recurrent(ctx: Any, node: Any, name: str, args: Any) -> None:  # noqa: ARG001 - its protocol
    """The LSTM or GRU that `tf_recurrent` put its carrier in the place of."""
    import numpy as np

    is_lstm = node.get_attr_str("rnn_mode") == "lstm"
    x, state, cell = node.input[:3]
    sequence, last, end = node.output[:3]
    steps, batch, wide = ctx.get_shape(x)
    units, dtype = ctx.get_shape(state)[-1], ctx.get_dtype(sequence)
    rows = (4 if is_lstm else 3) * units
    packed = np.asarray(node.inputs[3].get_tensor_value(as_list=False))
    parts = np.split(packed, [rows * wide, rows * (wide + units)])
    sizes = ((1, rows, wide), (1, rows, units), (1, 2 * rows))
    weights = [
        ctx.make_const(f"{name}_{what}", part.reshape(size)).output[0]
        for what, part, size in zip("wrb", parts, sizes, strict=True)
    ]
    states = 2 if is_lstm else 1
    made = ctx.make_node(
        "LSTM" if is_lstm else "GRU",
        [x, *weights, "", state, *([cell] if is_lstm else [])],
        name=f"{name}_layer",
        output_count=1 + states,
        attr={"hidden_size": units, **({} if is_lstm else {"linear_before_reset": 1})},
        shapes=[[steps, 1, batch, units], *[[1, batch, units]] * states],
        dtypes=[dtype] * (1 + states),
    )
    axis = ctx.make_const(f"{name}_axis", np.array([1], np.int64)).output[0]
    ctx.remove_node(name)
    ctx.make_node(
        "Squeeze", [made.output[0], axis], name=name, outputs=[sequence],
        shapes=[[steps, batch, units]], dtypes=[dtype],
    )  # fmt: skip
    for found, output in zip(made.output[1:], (last, end), strict=False):
        ctx.make_node(
            "Identity", [found], outputs=[output], shapes=[[1, batch, units]], dtypes=[dtype]
        )


HANDLERS: Mapping[str, Callable[..., None]] = {
    "Erfc": _erfc,
    "ReverseV2": _reverse,
    CARRIER: _recurrent,
}
"""By TensorFlow's operators, in the form of tf2onnx's custom handlers."""
