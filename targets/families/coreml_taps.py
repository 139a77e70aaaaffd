"""What Core ML packages compute on the way: every value, by the reference evaluator."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from crosscast.pipeline.signature import Arrays
from crosscast.targets.base import Tap, stripped
from crosscast.targets.families.coreml import answers, evaluated

if TYPE_CHECKING:
    from crosscast.targets.families.mil.program import Operation, Port

ADDED = re.compile(r"(_cast_fp(16|32)|_to_fp(16|32)|_quantized|_dequantized)$")
"""What coremltools adds to the name of a value that it brings to another dtype."""


def taps(*, artifact: Path, inputs: Arrays, tell: Callable[[Tap], None]) -> None:
    """Tell every tensor of floats that the program computes, in order.

    Raises Unproven where the evaluator lacks something.
    """
    import torch

    def watch(operation: Operation, port: Port, value: object) -> None:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            tell(
                Tap(
                    name=port.name,
                    operator=operation.type,
                    layer=operation.name,
                    called=stripped(port.name, ADDED),
                    array=value.numpy(),
                )
            )

    answers(evaluated(artifact=artifact, watch=watch), inputs)
