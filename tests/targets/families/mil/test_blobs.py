"""Files of weights, written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.targets.families.mil.blobs import CODES, Blobs, unpacked

FILE = "@model_path/weights/weight.bin"


def written(root: Path, code: int, data: bytes, *, sentinel: int = 0xDEADBEEF) -> Blobs:
    (root / "weights").mkdir()
    content = struct.pack("<II56x", 1, 2)
    content += struct.pack("<IIQQ40x", sentinel, code, len(data), 128) + data
    (root / "weights" / "weight.bin").write_bytes(content)
    return Blobs(root)


@pytest.mark.parametrize(
    ("code", "dtype"), [(1, "<f2"), (2, "<f4"), (3, "u1"), (4, "i1"), (6, "<i2"), (14, "<i4")]
)
def test_numbers_are_read_as_they_lie(tmp_path: Path, code: int, dtype: str) -> None:
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    found = written(tmp_path, code, array.tobytes()).read(FILE, 64, CODES[code], (2, 3))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_numbers_of_less_than_a_byte_are_unpacked(bits: int) -> None:
    values = [value % 2**bits for value in (1, 0, 7, 12, 33, 2, 1)]
    number = sum(value << place * bits for place, value in enumerate(values))
    content = number.to_bytes(-(-len(values) * bits // 8), "little")
    assert unpacked(content, f"uint{bits}", len(values)).tolist() == values


def test_signs_are_kept() -> None:
    assert unpacked(bytes([0x7F, 0x08]), "int4", 4).tolist() == [-1, 7, -8, 0]


def test_a_record_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    blobs = written(tmp_path, 2, bytes(24))
    with pytest.raises(
        StageError, match=r"weights/weight\.bin at 64 holds fp32, the program has fp16"
    ):
        blobs.read(FILE, 64, "fp16", (2, 3))
    with pytest.raises(StageError, match="holds 24 bytes, too few or many for fp32"):
        blobs.read(FILE, 64, "fp32", (7,))
    for offset in (0, 32, 128, 6400):
        with pytest.raises(StageError, match="holds no tensor"):
            blobs.read(FILE, offset, "fp32", (2, 3))


def test_files_that_are_none_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the package has no weights/weight\.bin"):
        Blobs(tmp_path).read(FILE, 64, "fp32", (1,))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weight.bin").write_bytes(b"12345678")
    with pytest.raises(StageError, match=r"weights/weight\.bin is no file of weights"):
        Blobs(tmp_path).read(FILE, 64, "fp32", (1,))


def test_a_damaged_sentinel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="holds no tensor"):
        written(tmp_path, 2, bytes(4), sentinel=1).read(FILE, 64, "fp32", (1,))


def test_floats_are_put_in_the_place_of_others(tmp_path: Path) -> None:
    blobs = written(tmp_path, 1, bytes(12))
    array = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
    blobs.write(FILE, 64, array)
    np.testing.assert_array_equal(Blobs(tmp_path).read(FILE, 64, "fp16", (2, 3)), array)
    with pytest.raises(StageError, match=r"weight\.bin at 64 holds 12 bytes, not 14"):
        blobs.write(FILE, 64, np.zeros(7, np.float32))
    with pytest.raises(StageError, match="holds no tensor"):
        blobs.write(FILE, 128, array)
