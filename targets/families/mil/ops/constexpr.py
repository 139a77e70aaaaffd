"""Compressed constants, decompressed when a program is loaded.

iOS 16 packs indices and masks into bytes; from iOS 18 on they are tensors of small integers, and
tables and scales are shared by blocks: the k-th of n along an axis holds for its k-th n-th.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2, prod

import torch

from crosscast.targets.families.mil.blobs import unpacked_bits
from crosscast.targets.families.mil.ops.arguments import Ints, Invalid, Op, Since, Tensor, unknown
from crosscast.targets.families.mil.ops.quantization import along


def affine_dequantize(
    *, quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int
) -> Tensor:
    offset = along(zero_point, axis, quantized_data)
    return (quantized_data.float() - offset) * along(scale, axis, quantized_data)


def cast(*, source_val: Tensor, output_dtype: str) -> Tensor:
    if output_dtype not in ("fp16", "fp32"):
        raise unknown("constexpr_cast", "output_dtype", output_dtype)
    return source_val


def lut_to_dense(*, indices: Tensor, lut: Tensor, shape: Ints) -> Tensor:
    return lut[_bits(indices, round(log2(lut.numel())), prod(shape)).long()].reshape(shape)


def lut_to_dense_18(*, indices: Tensor, lut: Tensor, vector_axis: int | None = None) -> Tensor:
    """lut: (blocks along each axis of the indices, entries, length of an entry)."""
    blocks, (entries, length) = lut.shape[:-2], lut.shape[-2:]
    numbers = torch.arange(prod(blocks)).reshape(blocks)
    chosen = _spread(numbers, list(indices.shape)) * entries + indices
    made = lut.reshape(-1, length)[chosen.long()]
    if vector_axis is None:
        if length != 1:
            raise Invalid("a table of vectors needs the axis along which they lie")
        return made.squeeze(-1)
    axis = vector_axis % indices.dim()
    return made.movedim(-1, axis + 1).flatten(axis, axis + 1)


def sparse_to_dense(*, nonzero_data: Tensor, mask: Tensor, shape: Ints) -> Tensor:
    return _filled(nonzero_data, _bits(mask, 1, prod(shape)).bool()).reshape(shape)


def sparse_to_dense_18(*, nonzero_data: Tensor, mask: Tensor) -> Tensor:
    return _filled(nonzero_data, mask.bool())


def blockwise_shift_scale(*, data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    shape = list(data.shape)
    given = data.float() if offset is None else data.float() - _spread(offset.float(), shape)
    return given * _spread(scale, shape)


def lut_to_sparse(
    *,
    indices_mask: Tensor,
    indices_nonzero_data: Tensor,
    lut: Tensor,
    vector_axis: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The mask and the values that are not zero, in the order of the dense tensor."""
    dense = lut_to_dense_18(
        indices=_filled(indices_nonzero_data, indices_mask.bool()),
        lut=lut,
        vector_axis=vector_axis,
    )
    mask = indices_mask.bool()
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask]


def sparse_blockwise_shift_scale(
    *, data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    mask = data_mask.bool()
    dense = blockwise_shift_scale(data=_filled(nonzero_data, mask), scale=scale, offset=offset)
    return mask, dense[mask]


def _bits(packed: Tensor, bits: int, count: int) -> Tensor:
    return torch.from_numpy(unpacked_bits(packed.to(torch.uint8).numpy(), bits, count))


def _filled(values: Tensor, mask: Tensor) -> Tensor:
    """The values where the mask is set, in order; zero elsewhere."""
    if int(mask.sum()) != values.numel():
        raise Invalid(f"{values.numel()} values for {int(mask.sum())} places that are not zero")
    made = torch.zeros(mask.shape, dtype=values.dtype)
    made[mask] = values.reshape(-1)
    return made


def _spread(values: Tensor, shape: list[int]) -> Tensor:
    """Each value over its block of a tensor of that shape."""
    for axis, size in enumerate(shape):
        if size % values.shape[axis]:
            raise Invalid(f"{values.shape[axis]} blocks do not divide an axis of {size}")
        values = values.repeat_interleave(size // values.shape[axis], axis)
    return values


OPS: Mapping[str, Op | Since] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_cast": cast,
    "constexpr_lut_to_dense": {15: lut_to_dense, 18: lut_to_dense_18},
    "constexpr_sparse_to_dense": {15: sparse_to_dense, 18: sparse_to_dense_18},
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
}
