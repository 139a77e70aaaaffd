from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity import npz
from crosscast.pipeline.parity.given import npz_samples
from crosscast.pipeline.parity.npz import open_npz
from crosscast.pipeline.signature import Signature, Tensor

ARRAYS: dict[str, Any] = {
    "c": np.arange(60, dtype=np.float32).reshape(5, 3, 4),
    "fortran": np.asfortranarray(np.arange(60, dtype=np.int64).reshape(5, 3, 4)),
    "flat": np.arange(5) > 2,
    "text": np.array(["a", "naïve", "", "b", "c"]),
    "big_endian": np.arange(10, dtype=">i4").reshape(5, 2),
    "empty": np.zeros((5, 0), np.float32),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("chunk", [16, 100, npz.CHUNK])
def test_rows_are_those_that_numpy_reads(
    tmp_path: Path, save: Callable[..., None], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "CHUNK", chunk)
    save(tmp_path / "a.npz", **ARRAYS)
    found = open_npz(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, rows in found.items():
        array = np.stack(list(rows))
        assert rows.dtype == ARRAYS[name].dtype
        assert np.array_equal(array, ARRAYS[name])
        assert len(list(rows)) == 5  # again from the start


def test_a_scalar_has_no_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.float32(1))
    assert open_npz(tmp_path / "a.npz")["x"].shape == ()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, order: Any, save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "CHUNK", 2**18)
    size, rows = 25_000, 320  # 100 kB a row, 32 MB in all
    save(tmp_path / "a.npz", x=np.asarray(np.ones((rows, size), np.float32), order=order))
    signature = Signature(inputs=(Tensor(name="x", shape=("n", size), dtype="float32"),))
    tracemalloc.start()
    count = sum(1 for _ in npz_samples(open_npz(tmp_path / "a.npz"), signature=signature))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == rows
    assert peak < 4e6


def test_what_is_no_npz_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(tmp_path / "whole.npz", x=np.random.default_rng(0).normal(size=(50, 50)))
    whole = (tmp_path / "whole.npz").read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 1
    for content in (b"", b"no zip", whole[:2000], bytes(broken)):
        path.write_bytes(content)
        with pytest.raises(StageError, match=r"a\.npz: is no \.npz of plain arrays"):
            list(open_npz(path)["x"])


def test_arrays_that_end_early_and_objects_are_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 4)))
    for name, content in (("short", (tmp_path / "x.npy").read_bytes()[:-8]), ("none", b"\x93NUM")):
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(StageError, match=r"no \.npz of plain arrays"):
            list(open_npz(tmp_path / f"{name}.npz")["x"])
    np.savez(tmp_path / "o.npz", x=np.array([{}], dtype=object))
    with pytest.raises(StageError, match="dtype object"):
        open_npz(tmp_path / "o.npz")
