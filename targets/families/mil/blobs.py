"""Files of weights (`weight.bin`): tensors behind one another, each with a record of its own.

Layout, in little-endian: a header of 64 bytes (number of tensors, version of the format); each
tensor's record of 64 bytes (sentinel, dtype, size in bytes, offset of the data; then bits of
padding, which older writers left at random), at a multiple of 64; its data, at a multiple of 64.
A value of the program names its record.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError, Unproven

HEADER = struct.Struct("<II")
RECORD = struct.Struct("<IIQQ")
RECORD_SIZE = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
ALIGNMENT = 64
ROOT = "@model_path/"

CODES = {
    1: "fp16", 2: "fp32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1",
    10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip
"""MIL's names of dtypes, by their codes in records."""

BITS = {name: int(name.lstrip("uintfp")) for name in CODES.values()}
NUMPY: Mapping[str, str] = {"fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True)
class Blobs:
    """The files of weights below `root`, each read once."""

    root: Path = Path()
    files: dict[str, Any] = field(default_factory=dict)

    def read(self, name: str, offset: int, dtype: str, shape: tuple[int, ...]) -> Any:
        """The tensor whose record is at `offset`; integers of less than a byte as bytes.

        Raises StageError where the file has no such record.
        """
        content = self._content(name)
        where = f"{name.removeprefix(ROOT)} at {offset}"
        code, start, size = self._record(content, offset, where)
        if CODES.get(code) != dtype:
            raise StageError(f"{where} holds {CODES.get(code, code)}, the program has {dtype}")
        if size != ceil(prod(shape) * BITS[dtype] / 8):
            raise StageError(f"{where} holds {size} bytes, too few or many for {dtype} {shape}")
        return unpacked(content[start : start + size], dtype, prod(shape)).reshape(shape)

    def write(self, name: str, offset: int, values: Any) -> None:
        """Put other numbers in the place of the tensor whose record is at `offset`.

        Raises StageError where the file has no such record, or one of another size.
        """
        path = self.root / name.removeprefix(ROOT)
        where = f"{name.removeprefix(ROOT)} at {offset}"
        code, start, size = self._record(self._content(name), offset, where)
        content = values.astype(NUMPY.get(CODES[code], CODES[code])).tobytes()
        if len(content) != size:
            raise StageError(f"{where} holds {size} bytes, not {len(content)}")
        with path.open("r+b") as file:
            file.seek(start)
            file.write(content)

    @staticmethod
    def _record(content: Any, offset: int, where: str) -> tuple[int, int, int]:
        """The code of the dtype, and where the data begins and how many bytes it has."""
        if offset % ALIGNMENT or offset + RECORD_SIZE > len(content):
            raise StageError(f"{where} holds no tensor")
        record = content[offset : offset + RECORD.size].tobytes()
        sentinel, code, size, start = RECORD.unpack(record)
        if sentinel != SENTINEL or start % ALIGNMENT or start + size > len(content):
            raise StageError(f"{where} holds no tensor")
        return code, start, size

    def _content(self, name: str) -> Any:
        import numpy as np

        if name not in self.files:
            path = self.root / name.removeprefix(ROOT)
            try:
                content = np.memmap(path, np.uint8, "r")
            except (OSError, ValueError) as error:
                raise StageError(f"the package has no {name.removeprefix(ROOT)}") from error
            if (
                len(content) < HEADER.size
                or HEADER.unpack(content[: HEADER.size].tobytes())[1] != VERSION
            ):
                raise StageError(f"{name.removeprefix(ROOT)} is no file of weights")
            self.files[name] = content
        return self.files[name]


def unpacked(content: Any, dtype: str, count: int) -> Any:
    """The `count` numbers that lie in bytes: packed from the lowest bit on, across bytes, where
    they have less than eight bits.
    """
    import numpy as np

    bits = BITS.get(dtype)
    if bits is None:
        raise Unproven(f"evaluator has no packed {dtype}")
    given = np.frombuffer(content, np.uint8)
    if bits >= 8:
        return given.view(NUMPY.get(dtype, dtype))[:count]
    values = unpacked_bits(given, bits, count)
    signed = dtype.startswith("int")
    return ((values ^ 1 << bits - 1).astype(np.int8) - (1 << bits - 1)) if signed else values


def unpacked_bits(given: Any, bits: int, count: int) -> Any:
    """`count` unsigned numbers of `bits` bits each, lowest bits first."""
    import numpy as np

    flags = np.unpackbits(given, bitorder="little", count=count * bits).reshape(count, bits)
    return (flags << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
