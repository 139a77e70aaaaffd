from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.vectors import (
    DTYPES,
    Vector,
    read_reference,
    write_tensors,
    write_vectors,
)


def test_the_library_reads_every_dtype_and_shape(tmp_path: Path) -> None:
    tensors = {name: np.ones((2, 3), name) for name in DTYPES}
    tensors["scalar"] = np.array(2.5, np.float32)
    tensors["empty"] = np.zeros((0, 4), np.float64)
    tensors["strided"] = np.arange(6, dtype=np.int16).reshape(2, 3).T
    tensors["big endian"] = np.arange(3, dtype=">i4")
    write_tensors(tmp_path / "x.safetensors", tensors.items())
    read = load_file(tmp_path / "x.safetensors")
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].shape == array.shape
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, [("a", np.ones(3, np.bool_)), ("b", np.ones(1)), ("c", np.ones(1, "f2"))])
    raw = path.read_bytes()
    assert (8 + int.from_bytes(raw[:8], "little")) % 8 == 0
    with safe_open(path, framework="numpy") as opened:
        assert opened.offset_keys() == ["b", "c", "a"]


def test_vectors_come_back_in_order(tmp_path: Path) -> None:
    wrote = [
        Vector(
            case=Case(
                name=f"real {index}",
                origin="real",
                arrays={"x": np.full((2, 2), index, np.float32)},
                dims={"n": 2},
            ),
            outputs={"a/b:0": np.full(3, index, np.int64), "z": np.array(index > 5)},
        )
        for index in range(12)
    ]
    entries = write_vectors(tmp_path, iter(wrote))
    assert entries[11] == {"name": "real 11", "origin": "real", "dims": {"n": 2}}
    for before, after in zip(wrote, read_reference(tmp_path), strict=True):
        assert before.case.name == after.case.name
        np.testing.assert_array_equal(before.case.arrays["x"], after.case.arrays["x"])
        assert set(after.outputs) == {"a/b:0", "z"}
        np.testing.assert_array_equal(before.outputs["a/b:0"], after.outputs["a/b:0"])
