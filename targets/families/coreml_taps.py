"""What Core ML packages compute on the way: every value, by the reference evaluator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.signature import Arrays
from crosscast.targets.base import Session, Tap, stripped
from crosscast.targets.families.coreml import answers, evaluated, spec_of
from crosscast.targets.families.coreml_features import BATCH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosscast.targets.families.mil.program import Operation, Port

ADDED = re.compile(r"(_cast_fp(16|32)|_to_fp(16|32)|_quantized|_dequantized)$")
"""What coremltools adds to the name of a value that it brings to another dtype."""


def taps(*, artifact: Path, inputs: Arrays, tell: Callable[[Tap], None]) -> None:
    """Tell every tensor of floats that the program computes, in order; those of a batch of images,
    of which a prediction takes one, one upon the other.

    Raises Unproven where the evaluator lacks something.
    """
    import numpy as np
    import torch

    waiting: dict[str, list[NDArray[Any]]] = {}

    def watch(operation: Operation, port: Port, value: object) -> None:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            made = [*waiting.pop(port.name, []), value.numpy()]
            if len(made) < count:
                waiting[port.name] = made
                return
            tell(
                Tap(
                    name=port.name,
                    operator=operation.type,
                    layer=operation.name,
                    called=stripped(port.name, ADDED),
                    array=np.concatenate(made) if count > 1 else made[0],
                )
            )

    session = evaluated(artifact=artifact, watch=watch)
    count = _predictions(artifact, session, inputs)
    answers(session, inputs)


def _predictions(artifact: Path, session: Session, inputs: Arrays) -> int:
    """How many predictions the session makes of some inputs."""
    batch = spec_of(artifact).description.metadata.userDefined.get(BATCH, "")
    sizes = (
        inputs[tensor.name].shape[tensor.shape.index(batch)]
        for tensor in session.inputs
        if batch and batch in tensor.shape
    )
    return next(sizes, 1)
