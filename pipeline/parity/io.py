"""Artifacts whose inputs and outputs have another dtype than the source's: float16, int8, uint8.

The source's floats are brought to the artifact's dtype before it runs, and what it answers is
brought back before it is compared: what that loses is the artifact's to answer for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Tensor


def delivered(tensors: Sequence[Tensor], io: str | None) -> tuple[Tensor, ...]:
    """The tensors as an artifact with floats in `io` declares them; None: as the source has them.

    Only floats change; how an integer stands for one is for the artifact to say.
    """
    return tuple(
        replace(tensor, dtype=io) if io and tensor.dtype.startswith("float") else tensor
        for tensor in tensors
    )


def given(arrays: Arrays, *, tensors: Sequence[Tensor]) -> Arrays:
    """The source's inputs in the dtypes that the artifact's `tensors` declare, in their order.

    Raises StageError where a quantized input does not say its scale.
    """
    return {tensor.name: _cast(arrays[tensor.name], tensor) for tensor in tensors}


def restored(array: NDArray[Any], *, tensor: Tensor, dtype: str) -> NDArray[Any]:
    """An output of the artifact in the source's `dtype`; itself where it has no business with it.

    tensor: as the artifact declares it.
    """
    if array.dtype.name == dtype or array.dtype.name != tensor.dtype:
        return array
    if tensor.quantization is not None:
        scale, zero_point = tensor.quantization
        return ((array.astype(np.float64) - zero_point) * scale).astype(dtype)
    return array.astype(dtype) if array.dtype.kind == "f" else array


def _cast(array: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    wanted = np.dtype(tensor.dtype)
    if array.dtype == wanted or array.dtype.kind != "f":
        return array
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(wanted)
    if tensor.quantization is None:
        raise StageError(f"input '{tensor.name}' is {wanted} without a scale and a zero point")
    scale, zero_point = tensor.quantization
    limits = np.iinfo(wanted)
    levels = np.rint(array.astype(np.float64) / scale) + zero_point
    return np.asarray(np.clip(levels, limits.min, limits.max).astype(wanted))
