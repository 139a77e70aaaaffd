"""What samples hold, as digests: a set's identity, and whether two sets share a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case, batch_dim, read_cases
from crosscast.pipeline.parity.tensors import encoded
from crosscast.pipeline.signature import Arrays, Signature


class ContentDigest:
    """The digest of a set of cases: of their arrays, in order, whatever they are called."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def over(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The cases as they are, each taken in as it passes."""
        for case in cases:
            self._hash.update(_digest(case.arrays))
            yield case

    def hexdigest(self) -> str:
        """Of what has passed so far."""
        return self._hash.hexdigest()


def refuse_overlap(cases: Iterable[Case], *, parity: Path, signature: Signature) -> Iterator[Case]:
    """The calibration cases as they are. Raises StageError where a row of one is a row of a real
    case of the tree `parity`: an artifact must not be judged on what it was fitted to.
    """
    batch = batch_dim(signature)
    real = (case for case in read_cases(parity) if case.origin == "real")
    seen = {digest: case.name for case in real for digest in _rows(case, batch)}
    for case in cases:
        for digest in _rows(case, batch):
            if digest in seen:
                raise StageError(
                    f"calibration sample '{case.name}' is parity sample '{seen[digest]}' as well",
                    fix="calibrate on other samples than those that artifacts are compared on",
                )
        yield case


def _rows(case: Case, batch: str | None) -> Iterator[bytes]:
    """The digest of each row along the batch, or of the whole case where there is no batch."""
    if batch is None:
        yield _digest(case.arrays)
        return
    for row in range(case.dims[batch]):
        yield _digest({name: array[row : row + 1] for name, array in case.arrays.items()})


def _digest(arrays: Arrays) -> bytes:
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = _plain(name, arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.digest()


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    return encoded(array, name=name) if array.dtype.kind == "O" else array
