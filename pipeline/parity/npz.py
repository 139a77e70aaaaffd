"""The arrays of an .npz, read a row at a time: memory does not grow with the file's size."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError

CHUNK = 2**25
"""Bytes of an array that lies in Fortran's order that are turned at a time."""

BROKEN = (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Rows:
    """One array of an .npz: its shape, and its rows as often as it is iterated."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Read the rows along the first axis, each when it is asked for."""
        with (
            _told(self.path),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self.member) as file,
        ):
            _header(file)
            yield from self._turned(file) if self.fortran else self._read(file)

    def _read(self, file: IO[bytes]) -> Iterator[NDArray[Any]]:
        shape = self.shape[1:]
        size = prod(shape) * self.dtype.itemsize
        for _ in range(self.shape[0]):
            data = bytearray(_exactly(file, size))
            yield np.frombuffer(data, self.dtype).reshape(shape)

    def _turned(self, file: IO[bytes]) -> Iterator[NDArray[Any]]:
        """The rows of an array whose first axis varies quickest, by way of a file."""
        with tempfile.TemporaryFile() as plain:
            total = prod(self.shape) * self.dtype.itemsize
            for start in range(0, total, CHUNK):
                plain.write(_exactly(file, min(CHUNK, total - start)))
            plain.flush()
            step = max(1, CHUNK * self.shape[0] // max(1, total))
            for start in range(0, self.shape[0], step):
                # opened anew, so that the pages of what was read do not stay
                mapped = np.memmap(plain, self.dtype, "r", shape=self.shape, order="F")
                block = np.array(mapped[start : start + step], order="C")
                del mapped
                yield from (row.copy() for row in block)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise what reading a broken file raises as a StageError."""
    try:
        yield
    except BROKEN as error:
        raise StageError(
            f"{path}: is no .npz of plain arrays: {error}",
            fix="write it with numpy.savez(path, **{input: array})",
        ) from error


def open_npz(path: Path) -> dict[str, Rows]:
    """The arrays of a file by name. Raises StageError where it is no .npz, or holds objects."""
    found = {}
    with _told(path), ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        for member in archive.namelist():
            with archive.open(member) as file:
                shape, fortran, dtype = _header(file)
            fortran = fortran and len(shape) > 1
            name = member.removesuffix(".npy")
            found[name] = Rows(path, member, shape, dtype, fortran)
    return found


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the format holds no plain array")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject or dtype.names is not None:
        raise ValueError(f"an array has dtype {dtype}")
    return shape, fortran, dtype


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"an array ends {size - len(data)} bytes too early")
    return data
