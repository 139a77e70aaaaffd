"""What ONNX artifacts compute on the way: every tensor, by ONNX Runtime without optimisations."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from crosscast.pipeline.signature import Arrays
from crosscast.targets.base import Tap, stripped

ADDED = re.compile(
    r"(_(Dequantize|Quantize)Linear_(Output|Input)|/(int8|float16|float32|means|unread))(_\d+)?$"
)
"""What quantizers add to the name of a value that they bring to another dtype."""


def taps(*, artifact: Path, inputs: Arrays, tell: Callable[[Tap], None]) -> None:
    """Tell every tensor of floats that the model computes, in order."""
    import numpy as np

    # not above: it needs numpy, and every command loads the targets
    from crosscast.targets.families.onnx_pieces import Pieces

    with tempfile.TemporaryDirectory() as folder:
        pieces = Pieces(artifact, scratch=Path(folder))
        values = pieces.values()
        for name, array in inputs.items():
            values[name] = array
        for name, array in pieces.run(values):
            if isinstance(array, np.ndarray) and array.dtype.kind == "f":
                made = pieces.made[name]
                tell(
                    Tap(
                        name=name,
                        operator=made.operator,
                        layer=made.node,
                        called=stripped(name, ADDED),
                        array=array,
                    )
                )
