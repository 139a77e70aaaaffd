"""fp32 ONNX to fp16: weights and arithmetic in half precision, inputs and outputs as they were."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.onnx import (
    MODEL,
    OnnxOptions,
    carry,
    check,
    interface,
    prepared,
    save,
)

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST = 65504.0
"""The greatest finite fp16 value."""


def convert(*, model: Path, options: Mapping[str, Any], out: Path) -> None:
    """Write the model in fp16, checked; its inputs and outputs keep their dtypes.

    Weights beyond the range of fp16 are set to its end, as masks of -3e38 want it, and named in
    the notes; whether the model bears that is for the parity gate to say.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source = prepared(model, OnnxOptions.model_validate(options).opset)
    clamped = _beyond_range(source)
    signature = interface(source)
    try:
        result = convert_float_to_float16(
            _with_shapes(source), keep_io_types=True, disable_shape_infer=True
        )
    except Exception as error:
        raise StageError(f"onnx-fp16: the model cannot be converted: {error}") from error
    _drop_repeated_casts(result)
    # The converter appends its casts at the end of the graph.
    ONNXModel(result).topological_sort()
    if interface(result) != signature:
        raise StageError("onnx-fp16: the converter changed the model's inputs or outputs")
    save(result, out)
    check(out, "the fp16 model")
    carry(model, out, **({"fp16_clamped": clamped} if clamped else {}))


def _beyond_range(model: ModelProto) -> list[str]:
    """Names of the weights with finite values that fp16 does not have."""
    import numpy as np
    import onnx

    names = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            if np.any(np.isfinite(values) & (np.abs(values) > LARGEST)):
                names.append(tensor.name)
    return names


def _with_shapes(model: ModelProto) -> ModelProto:
    """The model with inferred types, which tell the converter where casts belong.

    Inferred from a file, since protobuf passes no model above 2 GiB in memory; the weights are
    then those of `model` again.
    """
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        save(model, Path(scratch))
        onnx.shape_inference.infer_shapes_path(str(Path(scratch) / MODEL))
        return onnx.load(Path(scratch) / MODEL)


def _drop_repeated_casts(model: ModelProto) -> None:
    """Keep one of the equal casts: a tensor that two fp32 operators read is cast twice."""
    seen: set[str] = set()
    for node in list(model.graph.node):
        if node.op_type == "Cast" and node.output[0] in seen:
            model.graph.node.remove(node)
        seen.update(node.output)
