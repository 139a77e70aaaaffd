"""Compressed constants, unpacked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError

torch = pytest.importorskip("torch")
table = pytest.importorskip("crosscast.targets.families.mil.ops.table")


def op(name: str, opset: int, **arguments: Any) -> Any:
    return table.operator(f"constexpr_{name}", opset).function(**arguments)


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-6)


def packed(values: list[int], bits: int) -> Any:
    """Numbers behind one another, each with its lowest bit first."""
    flags = "".join(format(value, f"0{bits}b")[::-1] for value in values)
    flags += "0" * (-len(flags) % 8)
    return torch.tensor([int(flags[at : at + 8][::-1], 2) for at in range(0, len(flags), 8)])


@pytest.mark.parametrize("axis", [0, 1])
def test_affine_dequantize(axis: int) -> None:
    data = torch.arange(6).reshape(2, 3) - 3
    scale = torch.tensor([0.5, 2.0, 1.0][: data.shape[axis]])
    point = torch.tensor([1, -1, 0][: data.shape[axis]])
    shape = (-1, 1) if axis == 0 else (1, -1)
    found = op(
        "affine_dequantize", 16, quantized_data=data, zero_point=point, scale=scale, axis=axis
    )
    same(found, (data - point.reshape(shape)) * scale.reshape(shape))
    found = op(
        "affine_dequantize", 16, quantized_data=data, zero_point=torch.tensor(2),
        scale=torch.tensor(0.1), axis=axis,
    )  # fmt: skip
    same(found, (data - 2) * 0.1)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_lut_to_dense(bits: int) -> None:
    lut = torch.arange(2.0**bits) * 0.5
    places = [value % 2**bits for value in (3, 0, 2, 1, 5, 60)]
    found = op("lut_to_dense", 16, indices=packed(places, bits), lut=lut, shape=[2, 3])
    same(found, lut[places].reshape(2, 3))


def test_lut_of_groups() -> None:
    indices = torch.tensor([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3]).reshape(6, 2)
    lut = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    wanted = [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    same(op("lut_to_dense", 18, indices=indices, lut=lut), wanted)


@pytest.mark.parametrize("axis", [1, 2])
def test_lut_of_vectors(axis: int) -> None:
    indices = torch.tensor([0, 0, 1, 0, 1, 1, 0, 0]).reshape(2, 2, 2)
    lut = torch.tensor([[0.0, 1, 2], [10, 11, 12]]).reshape(1, 1, 1, 2, 3)
    found = op("lut_to_dense", 18, indices=indices, lut=lut, vector_axis=axis)
    rows = {
        1: [[0, 0], [1, 1], [2, 2], [10, 0], [11, 1], [12, 2]],
        2: [[0, 1, 2, 0, 1, 2], [10, 11, 12, 0, 1, 2]],
    }
    same(found[0], rows[axis])
    with pytest.raises(StageError, match="a table of vectors needs the axis"):
        op("lut_to_dense", 18, indices=indices, lut=lut)


def test_sparse_to_dense() -> None:
    values = torch.tensor([1.0, 2.0])
    wanted = [0, 0, 1, 2, 0]
    mask = torch.tensor([0b00001100])
    same(op("sparse_to_dense", 16, nonzero_data=values, mask=mask, shape=[5]), wanted)
    flags = torch.tensor([0, 0, 1, 1, 0])
    same(op("sparse_to_dense", 18, nonzero_data=values, mask=flags), wanted)
    with pytest.raises(StageError, match="2 values for 1 places"):
        op("sparse_to_dense", 18, nonzero_data=values, mask=torch.tensor([0, 1]))


def test_blockwise_shift_scale() -> None:
    data = torch.arange(8).reshape(2, 4)
    scale, offset = torch.tensor([[1.0, 2.0], [0.5, 1.0]]), torch.tensor([[0, 1], [2, 3]])
    wide = [scale.repeat_interleave(2, 1), offset.repeat_interleave(2, 1)]
    found = op("blockwise_shift_scale", 18, data=data, scale=scale, offset=offset)
    same(found, (data - wide[1]) * wide[0])
    same(op("blockwise_shift_scale", 18, data=data, scale=scale), data * wide[0])
    with pytest.raises(StageError, match="3 blocks do not divide an axis of 4"):
        op("blockwise_shift_scale", 18, data=data, scale=torch.ones(2, 3))


def test_lut_to_sparse() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]])
    places = torch.tensor([0, 1, 1])
    lut = torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1)
    given = {"indices_mask": mask, "indices_nonzero_data": places}
    kept, values = op("lut_to_sparse", 18, lut=lut, **given)
    same(kept, mask)
    same(values, [2, 3, 3])
    vectors = torch.tensor([[2.0, 20.0], [3.0, 30.0]]).reshape(1, 1, 2, 2)
    kept, values = op("lut_to_sparse", 18, lut=vectors, vector_axis=0, **given)
    same(kept, mask.repeat_interleave(2, 0))
    same(values, [2, 3, 20, 30, 3, 30])


def test_sparse_blockwise_shift_scale() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]])
    found = op(
        "sparse_blockwise_shift_scale", 18, data_mask=mask,
        nonzero_data=torch.tensor([10, 11, 3, 4, 5, 6, 7, 8, 9]),
        scale=torch.tensor([[0.1, 0.2, 0.3, 0.4]]), offset=torch.tensor([[1, 2, 3, 4]]),
    )  # fmt: skip
    same(found[0], mask)
    same(found[1], [0.9, 1.8, 0.2, 0.4, 0.6, 0.9, 1.2, 0.7, 1.4])
