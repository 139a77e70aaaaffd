"""Safetensors files that hold strings as well.

The format has no strings: an array of them is stored as UTF-8 in uint8, padded with zeros to the
longest, along one more (last) axis. The file's `__metadata__` names such tensors in a JSON list
under STRINGS. In memory they are numpy arrays of dtype object that hold str.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays

STRINGS = "strings"
"""The key of `__metadata__` under which a file names its tensors that are strings."""


def encoded(strings: NDArray[Any], *, name: str) -> NDArray[np.uint8]:
    """The strings as zero-padded UTF-8, with one more axis.

    Raises StageError for what cannot be read back: a NUL, which is the padding, and halves of
    surrogate pairs, which UTF-8 does not have.
    """
    rows = [_utf8(text, name) for text in strings.ravel()]
    width = max(1, *map(len, rows)) if rows else 1
    flat = np.frombuffer(b"".join(row.ljust(width, b"\0") for row in rows), dtype=np.uint8)
    return flat.reshape(*strings.shape, width)


def decoded(raw: NDArray[np.uint8]) -> NDArray[Any]:
    """The inverse of `encoded`."""
    rows = raw.reshape(-1, raw.shape[-1])
    strings = np.empty(len(rows), dtype=object)
    strings[:] = [row.tobytes().rstrip(b"\0").decode("utf-8") for row in rows]
    return strings.reshape(raw.shape[:-1])


def metadata(strings: list[str]) -> dict[str, str]:
    """The `__metadata__` of a file in which these tensors are strings; empty where none are."""
    return {STRINGS: json.dumps(sorted(strings))} if strings else {}


def read_tensors(path: Path) -> Arrays:
    """All tensors of a file, strings decoded."""
    with open_tensors(path) as tensors:
        return dict(tensors.items())


@contextmanager
def open_tensors(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The tensors of a file, strings decoded, each read when it is asked for."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        yield _Tensors(file)


class _Tensors(Mapping[str, NDArray[Any]]):
    def __init__(self, file: Any) -> None:
        self._file = file
        self._keys: list[str] = list(file.keys())
        self._strings = set(json.loads((file.metadata() or {}).get(STRINGS, "[]")))

    def __getitem__(self, key: str) -> NDArray[Any]:
        array: NDArray[Any] = self._file.get_tensor(key)
        return decoded(array) if key in self._strings else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _utf8(text: Any, name: str) -> bytes:
    if not isinstance(text, str):
        raise StageError(
            f"'{name}' holds a {type(text).__name__} where a string was expected",
            fix="give str only; an empty string for what is missing",
        )
    if "\0" in text:
        raise StageError(
            f"'{name}' holds a string with a NUL character, which no artifact can tell from its"
            " end",
            fix="leave it out of the string",
        )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StageError(
            f"'{name}' holds a string that is not valid Unicode: {error.reason}",
            fix="decode the text it comes from with errors='replace'",
        ) from error
