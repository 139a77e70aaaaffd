"""How each ONNX operator is said in MIL, by its name; with its domain where that is not ONNX's.

Operators are those of opset 18 and later: older models are upgraded first.
"""

from __future__ import annotations

from collections.abc import Mapping

from crosscast.targets.families.onnx_mil.node import Operator
from crosscast.targets.families.onnx_mil.ops import (
    activations,
    arithmetic,
    convolution,
    indexing,
    learning,
    logic,
    normalization,
    pooling,
    products,
    quantization,
    recurrent,
    reductions,
    resizing,
    sampling,
    shapes,
    slicing,
    sorting,
    trees,
)

TABLE: Mapping[str, Operator] = {
    **activations.TABLE,
    **arithmetic.TABLE,
    **convolution.TABLE,
    **indexing.TABLE,
    **learning.TABLE,
    **logic.TABLE,
    **normalization.TABLE,
    **pooling.TABLE,
    **products.TABLE,
    **quantization.TABLE,
    **recurrent.TABLE,
    **reductions.TABLE,
    **resizing.TABLE,
    **sampling.TABLE,
    **shapes.TABLE,
    **slicing.TABLE,
    **sorting.TABLE,
    **trees.TABLE,
}
