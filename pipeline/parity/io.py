"""Artifacts whose inputs and outputs have another dtype than the source's: float16, int8 or uint8
for its floats where the config asks for it, or what the format has in place of a dtype.

The source's numbers are brought to the artifact's dtype before it runs, and what it answers is
brought back before it is compared: what that loses is the artifact's to answer for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Tensor


def delivered(
    tensors: Sequence[Tensor],
    *,
    io: str | None,
    narrowed: Mapping[str, str],
    pixels: Collection[str] = (),
) -> tuple[Tensor, ...]:
    """The tensors as an artifact declares them.

    io: of its floats, None for the source's; how an integer stands for one is for the artifact to
    say. narrowed: dtypes that its format has in place of others, by these. pixels: those that are
    images, which every format takes as they are.
    """

    def dtype(tensor: Tensor) -> str:
        if tensor.name in pixels:
            return tensor.dtype
        asked = io if io and tensor.dtype.startswith("float") else None
        return asked or narrowed.get(tensor.dtype, tensor.dtype)

    return tuple(replace(tensor, dtype=dtype(tensor)) for tensor in tensors)


def given(arrays: Arrays, *, tensors: Sequence[Tensor]) -> Arrays:
    """The source's inputs in the dtypes that the artifact's `tensors` declare, in their order.

    Raises StageError where a quantized input does not say its scale, and where an integer is none
    of the narrower dtype: nothing wraps.
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
    if array.dtype.kind == "f":
        return array.astype(dtype)
    found = array.astype(dtype)
    is_same = np.dtype(dtype).kind in "biu" and np.array_equal(found.astype(array.dtype), array)
    return found if is_same else array


def _cast(array: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    wanted = np.dtype(tensor.dtype)
    if array.dtype == wanted:
        return array
    if array.dtype.kind != "f":
        return _narrowed(array, tensor) if array.dtype.kind in "biu" else array
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(wanted)
    if tensor.quantization is None:
        raise StageError(f"input '{tensor.name}' is {wanted} without a scale and a zero point")
    scale, zero_point = tensor.quantization
    limits = np.iinfo(wanted)
    levels = np.rint(array.astype(np.float64) / scale) + zero_point
    return np.asarray(np.clip(levels, limits.min, limits.max).astype(wanted))


def _narrowed(array: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    """Booleans and integers as the integers of the tensor."""
    wanted = np.dtype(tensor.dtype)
    if wanted.kind not in "iu":
        return array
    limits = np.iinfo(wanted)
    beyond = array[(array < limits.min) | (array > limits.max)]
    if beyond.size:
        raise StageError(
            f"input '{tensor.name}' is {wanted} in the artifact, which has no {beyond.flat[0]}",
            fix=f"declare a `range` of '{tensor.name}' within {limits.min} to {limits.max}",
        )
    return array.astype(wanted)
