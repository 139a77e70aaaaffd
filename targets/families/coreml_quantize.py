"""Smaller weights for a ML Program: linear int8, and palettes of 16, 64 or 256 values.

Both are coremltools' own; the program computes in what it did before. Weights are given back as the
model loads or as they are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import NOTES, Options, read_notes
from crosscast.targets.families.coreml import MODEL, precision
from crosscast.targets.families.coreml_convert import normalise
from crosscast.targets.families.coreml_describe import without_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

IOS18 = 9
"""The version of the specification that came with it."""

LEAST = 512
"""Elements of a weight from which on its bytes outweigh those of its scales or its palette."""


class PaletteOptions(Options):
    """Options of weights in palettes."""

    group: int | None = Field(
        default=None,
        ge=1,
        description="Output channels that share a palette, from iOS18 on; default all of a weight.",
    )


class Int8Options(PaletteOptions):
    """Options of int8 weights."""

    mode: Literal["linear", "palettized"] = Field(
        default="linear",
        description="linear: steps of one size for each output channel. palettized: for each "
        "weight a palette of the values that serve it best.",
    )
    bits: Literal[6, 8] = Field(
        default=8, description="Of palettized weights: palettes of 64 or of 256 values."
    )


def to_int8(
    *,
    model: Path,
    options: Mapping[str, Any],
    samples: Path | None,  # noqa: ARG001
    out: Path,
) -> None:
    """Write the package with weights in int8, or in palettes of 6 or 8 bits.

    Raises StageError where the model holds no weights that are worth it.
    """
    chosen = Int8Options.model_validate(options)
    if chosen.mode == "linear":
        _write(model, out, _linear)
    else:
        _write(model, out, lambda package: _palettized(package, chosen.bits, chosen.group))


def to_int4(
    *,
    model: Path,
    options: Mapping[str, Any],
    samples: Path | None,  # noqa: ARG001
    out: Path,
) -> None:
    """Write the package with weights in palettes of 16 values."""
    chosen = PaletteOptions.model_validate(options)
    _write(model, out, lambda package: _palettized(package, 4, chosen.group))


def _linear(package: Any) -> Any:
    from coremltools.optimize import coreml

    weights = coreml.get_weights_metadata(package, weight_threshold=LEAST)
    chosen = {name: steps_of(one.val) for name, one in weights.items()}
    configs = {
        name: coreml.OpLinearQuantizerConfig(
            mode=steps.mode, granularity=steps.granularity, weight_threshold=LEAST
        )
        if steps
        else None
        for name, steps in chosen.items()
    }
    config = coreml.OptimizationConfig(op_name_configs=configs)
    return coreml.linear_quantize_weights(package, config)


class Steps(NamedTuple):
    """How weights are quantized, in coremltools' words."""

    mode: Literal["linear_symmetric", "linear"]
    granularity: Literal["per_channel", "per_tensor"]


STEPS = (
    Steps("linear_symmetric", "per_channel"),
    Steps("linear_symmetric", "per_tensor"),
    Steps("linear", "per_channel"),
    Steps("linear", "per_tensor"),
)
"""What is tried for weights that are on a grid already, and what others get, first."""

NEAR = 1e-3
"""Of a step: what float32 adds to numbers that are whole multiples of it."""


def steps_of(weight: NDArray[Any]) -> Steps | None:
    """The first of STEPS that gives a weight back as it is, where there is one: what comes from an
    int8 file keeps its numbers, and what it computes. Else the first, but None for filters of a
    depthwise convolution: they are few bytes, and each is a factor of a whole channel (int8 for
    those of EfficientNet-Lite0, 4 % of its weights, costs 1.5 dB).
    """
    import numpy as np

    rows = weight.reshape(len(weight), -1).astype(np.float64)
    for steps in STEPS:
        axis = 1 if steps.granularity == "per_channel" else None
        low, high = rows.min(axis, keepdims=True), rows.max(axis, keepdims=True)
        if steps.mode == "linear_symmetric":
            size, zero = np.maximum(-low, high) / 127, 0.0
        else:
            low, high = np.minimum(low, 0), np.maximum(high, 0)
            size = (high - low) / 255
            zero = np.rint(-low / np.where(size, size, 1))
        places = rows / np.where(size, size, 1) + zero
        if np.abs(places - np.rint(places)).max() < NEAR:
            return steps
    is_depthwise = weight.ndim > 2 and weight.shape[1] == 1
    return None if is_depthwise else STEPS[0]


def _palettized(package: Any, bits: int, group: int | None) -> Any:
    from coremltools.optimize import coreml

    if group and package.get_spec().specificationVersion < IOS18:
        raise StageError(
            "Core ML: palettes of groups of channels need iOS18",
            fix="set 'minimum: iOS18' in the target, or leave 'group' out",
        )
    shared = {"granularity": "per_grouped_channel", "group_size": group} if group else {}
    config = coreml.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=LEAST, **shared)
    return coreml.palettize_weights(package, coreml.OptimizationConfig(config))


def _write(model: Path, out: Path, compress: Callable[[Any], Any]) -> None:
    import coremltools

    package = coremltools.models.MLModel(str(model / MODEL), skip_model_load=True)
    spec = package.get_spec()
    put_back = without_classes(spec)
    bare = coremltools.models.MLModel(spec, weights_dir=package.weights_dir, skip_model_load=True)
    out.mkdir(parents=True, exist_ok=True)
    compress(bare).save(str(out / MODEL))
    normalise(out / MODEL, put_back)
    if not precision(artifact=out).weights.keys() - precision(artifact=model).weights.keys():
        raise StageError(
            f"Core ML: no weight of the model has {LEAST} elements that could be compressed",
            fix="use coreml-fp16 for this model",
        )
    if told := read_notes(model):
        (out / NOTES).write_text(json.dumps(told) + "\n", encoding="utf-8")
