"""What samples hold, as digests: a set's identity, and whether two sets share a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import LABEL, Case, batch_dim, read_cases
from crosscast.pipeline.parity.tensors import encoded
from crosscast.pipeline.signature import Arrays, Signature


class ContentDigest:
    """The digest of a set of cases: of their arrays and labels, in order, whatever their names."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def over(self, cases: Iterable[Case]) -> Iterator[Case]:
        """The cases as they are, each taken in as it passes."""
        for case in cases:
            self._hash.update(_whole(case))
            yield case

    def hexdigest(self) -> str:
        """Of what has passed so far."""
        return self._hash.hexdigest()


def distinct(cases: Iterable[Case], *, again: list[str]) -> Iterator[Case]:
    """The cases but for those that are an earlier one once more, whose names go to `again`: what
    is counted twice proves no more.
    """
    seen: set[bytes] = set()
    for case in cases:
        digest = _whole(case)
        if digest in seen:
            again.append(case.name)
        else:
            seen.add(digest)
            yield case


def refuse_overlap(
    cases: Iterable[Case], *, others: Mapping[str, Path], signature: Signature
) -> Iterator[Case]:
    """The calibration cases as they are. Raises StageError where a row of one is a row of a real
    case of the trees `others`, which are called by what they are: an artifact must not be judged
    on what it was fitted to.
    """
    batch = batch_dim(signature)
    seen = {
        digest: f"{called} sample '{case.name}'"
        for called, tree in others.items()
        for case in read_cases(tree)
        if case.origin == "real"
        for digest in _rows(case, batch)
    }
    for case in cases:
        for digest in _rows(case, batch):
            if digest in seen:
                raise StageError(
                    f"calibration sample '{case.name}' is {seen[digest]} as well",
                    fix="calibrate on other samples than those that artifacts are judged on",
                )
        yield case


def _whole(case: Case) -> bytes:
    """The digest of a case; without a label that of its arrays, as for a row."""
    inputs = _digest(case.arrays)
    if case.label is None:
        return inputs
    return hashlib.sha256(inputs + _digest({LABEL: case.label})).digest()


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
