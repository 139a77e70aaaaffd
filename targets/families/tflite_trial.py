"""Whether a TFLite file runs at the sizes that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.tflite_shapes import Shapes

if TYPE_CHECKING:
    from crosscast.targets.families.tflite_runtime import LiteRtSession

Outputs = Sequence[tuple[int | None, ...] | None]
"""Shapes; None for a shape or a size that is not known."""


def fault(folder: Path, trials: Sequence[tuple[Shapes, Outputs]]) -> str:
    """What goes wrong with the file under `folder` on zeros of each trial's input shapes: an error
    of the runtime's, or outputs of other shapes than the trial's. Empty where nothing does.
    """
    from crosscast.targets.families import tflite_runtime  # which imports the family

    try:
        session = tflite_runtime.open(artifact=folder)
        for shapes, outputs in trials:
            found = _ran(session, shapes)
            for shape, wanted in zip(found, outputs, strict=True):
                if not _fits(shape, wanted):
                    return f"an output of shape {shape} in place of {wanted}"
    except StageError as error:
        return error.message
    return ""


def _ran(session: LiteRtSession, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, ...]]:
    import numpy as np

    inputs = {tensor.name: np.zeros(shapes[tensor.name], tensor.dtype) for tensor in session.inputs}
    return [array.shape for array in session.run(inputs).values()]


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    return wanted is None or (
        len(shape) == len(wanted)
        and all(want in (None, size) for want, size in zip(wanted, shape, strict=True))
    )
