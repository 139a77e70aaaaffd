"""Smaller numbers for a TFLite file: float16 weights, static int8."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.targets.base import Options
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.rounding import keep_sums
from crosscast.targets.families.tflite import FILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

Operator = Literal["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_2D_TRANSPOSE"]

QUANTIZABLE: tuple[Operator, ...] = get_args(Operator)
"""The operators that int8 arithmetic serves well; more of them cost accuracy without saving
space (a vision transformer's cosine falls from .999 to .48 when every operator is quantized)."""

SCHEMA_NAMES = {"CONV_2D_TRANSPOSE": "TRANSPOSE_CONV"}
"""The quantizer's name of an operator -> the file's, where they differ."""

FLOAT16_LIMIT = 65504.0


class StaticOptions(Options):
    """How a TFLite file is quantized to static int8."""

    operators: tuple[Operator, ...] = Field(
        default=QUANTIZABLE,
        min_length=1,
        description="TFLite operators to quantize, in the names of ai-edge-quantizer.",
    )


def to_float16(
    *,
    model: Path,
    options: Mapping[str, Any],  # noqa: ARG001
    samples: Path | None,  # noqa: ARG001
    out: Path,
) -> None:
    """Write the file with its weights as float16; inputs, outputs and arithmetic stay float32.

    Every matrix and kernel is stored in half precision behind a DEQUANTIZE, which runtimes fold
    or compute with as the device can: recurrent layers too, which ai-edge-quantizer leaves out.
    Vectors (biases) and values beyond float16's range stay as they are.
    """
    made = files.read(model / FILE)
    cast = sum(_halve(made, graph) for graph in made.subgraphs)
    if not cast:
        raise StageError(
            "the model holds no weights that float16 could store",
            fix="use tflite-fp32 for this model",
        )
    files.prune(made)
    out.mkdir(parents=True, exist_ok=True)
    files.write(made, out / FILE)


def to_int8(*, model: Path, options: Mapping[str, Any], samples: Path | None, out: Path) -> None:
    """Write the file with int8 weights (a scale a channel) and int8 activations in the operators
    of `options["operators"]`; inputs, outputs and all other operators stay float32.

    Activation ranges are the least and greatest values over the tree `samples`.
    Raises StageError where the model has none of these operators.
    """
    operators = tuple(options.get("operators", QUANTIZABLE))
    if samples is None:
        raise StageError("int8 needs calibration samples", fix="declare samples.calibration")
    whole = files.read(model / FILE)
    _require_operators(whole, operators)
    made = files.parse(_quantized(model / FILE, operators, samples))
    _keep_dynamic(made.subgraphs[0], whole.subgraphs[0])
    out.mkdir(parents=True, exist_ok=True)
    files.write(made, out / FILE)


def _halve(made: Any, graph: Any) -> int:
    """Store a subgraph's matrices and kernels as float16; their number."""
    import numpy as np

    editor = files.Editor(made, graph)
    casts = []
    for index in sorted(files.constants(made, graph)):
        tensor = graph.tensors[index]
        if files.numpy_name(tensor.type) != "float32" or len(files.signature_of(tensor)) < 2:
            continue
        values = files.data_of(made, tensor).view(np.float32)
        if np.abs(values).max() > FLOAT16_LIMIT or index in graph.outputs:
            continue
        name = f"{files.text(tensor.name)}_float16"
        shape, kind = files.signature_of(tensor), files.tensor_type("float16")
        half = editor.tensor(name, kind, shape, values.astype(np.float16))
        tensor.buffer = 0
        casts.append(editor.operator("DEQUANTIZE", [half], index, version=3))
    graph.operators[:0] = casts
    return len(casts)


def _require_operators(made: Any, operators: tuple[str, ...]) -> None:
    wanted = {SCHEMA_NAMES.get(name, name) for name in operators}
    present = {
        files.operator_name(made, operator)
        for graph in made.subgraphs
        for operator in graph.operators
    }
    if not wanted & present:
        raise StageError(
            f"the model has no operator to quantize: none of {', '.join(operators)} among "
            f"{', '.join(sorted(present))}",
            fix="use tflite-fp16 or tflite-fp32 for this model",
        )


def _quantized(path: Path, operators: tuple[str, ...], samples: Path) -> bytes:
    """The quantized file's bytes."""
    from ai_edge_quantizer import quantizer

    job = quantizer.Quantizer(_with_sums_kept(path.read_bytes(), operators))
    for name in operators:
        job.add_static_config(
            regex=".*",
            operation_name=quantizer.qtyping.TFLOperationName(name),
            activation_num_bits=8,
            weight_num_bits=8,
        )
    ranges: dict[str, Any] = {}
    for sample in calibration(samples):
        # A call a sample: given several, the quantizer holds all of them in memory, carries the
        # state of recurrent operators over, and averages so that the first one counts most.
        found = job.calibrate({files.SIGNATURE: [sample]}, num_threads=1)
        ranges = {name: _joined(ranges.get(name, found[name]), found[name]) for name in found}
    result = job.quantize(ranges, enable_progress_report=False)
    return bytes(result.quantized_model)


def _with_sums_kept(content: bytes, operators: tuple[str, ...]) -> bytes:
    """The file with the weights of those operators rounded so that filters keep their sums."""
    import numpy as np

    copy = bytearray(content)
    made = files.parse(copy)
    names = {SCHEMA_NAMES.get(name, name) for name in operators}
    rounded: set[int] = set()
    for graph in made.subgraphs:
        for operator in graph.operators:
            name = files.operator_name(made, operator)
            tensor = graph.tensors[operator.inputs[1]] if name in names else None
            if tensor is None or tensor.buffer in rounded:
                continue
            data = files.data_of(made, tensor)
            if data is not None and files.numpy_name(tensor.type) == "float32":
                weights = data.view(np.float32).reshape(files.signature_of(tensor))
                weights[...] = _rounded(name, weights)
                rounded.add(tensor.buffer)
    return bytes(copy)


def _rounded(name: str, weights: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    if weights.ndim == 2:
        return keep_sums(weights, axis=0, kernel=1)
    kernel = int(np.prod(weights.shape[1:-1]))
    if name == "DEPTHWISE_CONV_2D":
        return keep_sums(weights, axis=weights.ndim - 1, kernel=kernel)
    # [out, height, width, in], and kernels are groups of the last axes
    kept = keep_sums(np.moveaxis(weights, -1, 1), axis=0, kernel=kernel)
    return np.moveaxis(kept, 1, -1)


def _keep_dynamic(made: Any, whole: Any) -> None:
    """Declare the dynamic dimensions of inputs and outputs, which the quantizer forgets."""
    for ports, given in ((made.inputs, whole.inputs), (made.outputs, whole.outputs)):
        for index, origin in zip(ports, given, strict=True):
            files.set_shape(made.tensors[index], files.signature_of(whole.tensors[origin]))


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The range that holds two ranges of a tensor."""
    import numpy as np

    join = {"min": np.minimum, "max": np.maximum}
    return {key: choose(one[key], other[key]) for key, choose in join.items() if key in other}


def calibration(samples: Path) -> Iterator[Arrays]:
    """The samples of a tree, one in memory at a time."""
    from safetensors.numpy import load_file

    for case in json.loads((samples / "cases.json").read_text()):
        yield load_file(samples / case["file"])
