"""What an artifact is proven on: real samples, and the cases made beside them. numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.parity.samples import (
    SYNTHETIC_CASES,
    Case,
    adversarial,
    batch_dim,
    bindings,
    dynamic_dims,
    synthetic,
)
from crosscast.pipeline.parity.streams import streamed
from crosscast.pipeline.signature import STRING, Signature

TEXT_CASES = 12
"""Strings have no ends to go to: they are drawn more often, several times at each size."""

STACKED_CASES = 8
"""Real cases that are held in memory to be stacked into batches."""


def parity_cases(real: Iterable[Case], *, signature: Signature) -> Iterator[Case]:
    """Real cases as they are, then what makes them a proof: batch sizes, other dynamic sizes,
    steps of a stream, adversarial rows. Synthetic ones take the place of real ones where there are
    none.
    """
    stack: list[Case] = []
    seen: set[int] = set()
    batch = batch_dim(signature)
    for case in real:
        if batch is not None:
            seen.add(case.dims[batch])
        if len(stack) < STACKED_CASES:
            stack.append(case)
        yield case
    yield from swept(stack, signature=signature, seen=seen)
    if not stack or set(dynamic_dims(signature)) - {batch}:
        texts = any(tensor.dtype == STRING for tensor in signature.inputs)
        yield from synthetic(signature, least=TEXT_CASES if texts else SYNTHETIC_CASES)
    yield from streamed(stack, signature=signature)
    yield from adversarial(signature)


def swept(stack: Sequence[Case], *, signature: Signature, seen: set[int]) -> Iterator[Case]:
    """Real rows stacked, and repeated where they are too few, to each batch size not `seen`."""
    batch = batch_dim(signature)
    if batch is None or not stack:
        return
    first = stack[0]
    alike = [case for case in stack if {**case.dims, batch: 0} == {**first.dims, batch: 0}]
    for dims in bindings(signature):
        size = dims[batch]
        if size in seen:
            continue
        seen.add(size)
        arrays = {tensor.name: _tiled(tensor.name, alike, size) for tensor in signature.inputs}
        name = f"swept {batch}={size}"
        yield Case(name=name, origin="swept", arrays=arrays, dims={**first.dims, batch: size})


def _tiled(name: str, cases: Sequence[Case], size: int) -> NDArray[Any]:
    rows = np.concatenate([case.arrays[name] for case in cases])
    return np.resize(rows, (size, *rows.shape[1:]))
