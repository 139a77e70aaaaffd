"""Smaller weights for a ML Program: linear int8, and palettes of 16, 64 or 256 values.

Both are coremltools' own; the program computes in what it did before. Weights are given back as the
model loads or as they are used.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.targets.base import NOTES, SAID, Options, read_notes
from crosscast.targets.families import coreml_compensation, sensitivity
from crosscast.targets.families.coreml import (
    MODEL,
    answers,
    evaluated,
    overwrite,
    program,
)
from crosscast.targets.families.coreml_audit import LEVELS, Audited, precision
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
    samples: Path | None,
    out: Path,
) -> None:
    """Write the package with weights in int8, or in palettes of 6 or 8 bits.

    samples: real ones, on which the errors of int8 weights cancel; None for none. Palettes do
    without.
    Raises StageError where the model holds no weights that are worth it.
    """
    chosen = Int8Options.model_validate(options)
    if chosen.mode == "palettized":
        _write(model, out, lambda package: _palettized(package, chosen.bits, chosen.group))
        return
    _write(model, out, _linear)
    if samples is not None:
        _make_room(model, samples, out)


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


def _make_room(model: Path, samples: Path, out: Path) -> None:
    """Where the package in `out` leaves int8's limits too little room on the samples, put one in
    its place whose weights are rounded so that errors cancel on these, if that leaves more; the
    notes say so. Nothing where the evaluator cannot run it.

    model: the same in float.
    """
    try:
        wanted = sensitivity.held(_answers(model, samples))
        plain = _room(wanted, out, samples)
        if plain.reaches(sensitivity.LEVELS[-1]):
            return
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            made = _fitted(model, samples, Path(scratch))
            if _room(wanted, made, samples).cost < plain.cost:
                shutil.rmtree(out)
                shutil.move(made, out)
                _say(out, "int8 leaves answers little room: weights are fitted to the samples")
    except (StageError, Unproven):
        return


def _room(
    wanted: Sequence[Sequence[NDArray[Any]]], artifact: Path, samples: Path
) -> sensitivity.Room:
    standard = sensitivity.Standard(wanted, [""] * len(wanted[0]))
    found = islice(_answers(artifact, samples), len(wanted))
    return sensitivity.Room([standard.room_db(place, values) for place, values in enumerate(found)])


def _answers(artifact: Path, samples: Path) -> Iterator[list[NDArray[Any]]]:
    from crosscast.pipeline.parity.samples import read_cases

    session = evaluated(artifact=artifact)
    places = sensitivity.spread(sum(1 for _ in read_cases(samples)))
    for case in sensitivity.at(read_cases(samples), places):
        yield list(answers(session, case.arrays).values())


def _fitted(model: Path, samples: Path, scratch: Path) -> Path:
    """The int8 package whose weights' errors cancel on the samples."""
    from crosscast.targets.families.mil.program import constants

    tree, made = scratch / "float", scratch / "int8"
    shutil.copytree(model, tree)
    held = constants(program(tree).block).items()
    large = {name: it for name, it in held if getattr(it, "ndim", 0) > 1 and it.size >= LEAST}
    free = [name for name, steps in chosen_steps(large).items() if steps == STEPS[0]]
    overwrite(tree, coreml_compensation.compensated(tree, samples, wanted=free))
    _write(tree, made, _linear)
    return made


def _say(out: Path, text: str) -> None:
    told = read_notes(out)
    said = "; ".join(filter(None, [told.get(SAID, ""), text]))
    (out / NOTES).write_text(json.dumps({**told, SAID: said}) + "\n", encoding="utf-8")


def _linear(package: Any) -> Any:
    import numpy as np
    from coremltools.optimize import coreml

    weights = coreml.get_weights_metadata(package, weight_threshold=LEAST)
    chosen = chosen_steps({name: one.val for name, one in weights.items()})
    configs = {
        name: coreml.OpLinearQuantizerConfig(
            mode=steps.mode, granularity=steps.granularity, weight_threshold=LEAST
        )
        if steps
        else None
        for name, steps in chosen.items()
    }
    config = coreml.OptimizationConfig(op_name_configs=configs)
    with np.errstate(divide="ignore", invalid="ignore"):  # see `_give_steps`
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


SMALL = 0.01
"""Of all elements: what the smallest weights may make up together to stay in float. They are those
of early layers, whose errors go through the whole network (EfficientNet-Lite0: 3.6 dB)."""


def chosen_steps(weights: Mapping[str, NDArray[Any]]) -> dict[str, Steps | None]:
    """How each of the weights is quantized, by name; None for those that stay in float.

    What is on steps already keeps them: what comes from an int8 file keeps its numbers, and what it
    computes. Of the others, the smallest stay in float, and filters of depthwise convolutions: they
    are few bytes, and each is a factor of a whole channel (int8 for those of EfficientNet-Lite0,
    4 % of its weights, costs 1.5 dB).
    """
    left = SMALL * sum(weight.size for weight in weights.values())
    chosen: dict[str, Steps | None] = {}
    for name, weight in sorted(weights.items(), key=lambda item: item[1].size):
        chosen[name] = next((steps for steps in STEPS if on_steps(weight, steps)), None)
        is_depthwise = weight.ndim > 2 and weight.shape[1] == 1
        if chosen[name] is None and not is_depthwise:
            left -= weight.size
            chosen[name] = None if left >= 0 else STEPS[0]
    return chosen


def on_steps(weight: NDArray[Any], steps: Steps) -> bool:
    """Whether the weight is as it would be after quantization."""
    import numpy as np

    rows = weight.reshape(len(weight), -1).astype(np.float64)
    axis = 1 if steps.granularity == "per_channel" else None
    low, high = rows.min(axis, keepdims=True), rows.max(axis, keepdims=True)
    if steps.mode == "linear_symmetric":
        size, zero = np.maximum(-low, high) / 127, 0.0
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        size = (high - low) / 255
        zero = np.rint(-low / np.where(size, size, 1))
    places = rows / np.where(size, size, 1) + zero
    return bool(np.abs(places - np.rint(places)).max() < NEAR)


def _give_steps(artifact: Path) -> None:
    """Give channels whose steps float16 rounds to 0 steps of 1 and levels of 0, in place.

    coremltools divides such weights by 0 and writes the last levels. They are of no account: the
    largest is less than 127 of the smallest float16.
    """
    import numpy as np

    audited = Audited(artifact)
    for operation in audited.operations:
        scales = audited.value(operation, "scale") if operation.type in LEVELS else None
        if scales is None or scales.ndim == 0 or scales.all():
            continue
        levels = LEVELS[operation.type][0]
        held, axis = audited.value(operation, levels), audited.value(operation, "axis")
        shape = scales.shape  # as many axes as the weights have, where none is said
        if axis is not None:
            shape = tuple(-1 if place == axis else 1 for place in range(held.ndim))
        audited.write(operation, levels, np.where(scales.reshape(shape) == 0, 0, held))
        audited.write(operation, "scale", np.where(scales == 0, 1, scales))


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
    _give_steps(out)
    if not precision(artifact=out).weights.keys() - precision(artifact=model).weights.keys():
        raise StageError(
            f"Core ML: no weight of the model has {LEAST} elements that could be compressed",
            fix="use coreml-fp16 for this model",
        )
    if told := read_notes(model):
        (out / NOTES).write_text(json.dumps(told) + "\n", encoding="utf-8")
