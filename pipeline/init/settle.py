"""Which sizes a model takes: candidates are tried until the source runs on all that a build will
run it on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from crosscast.pipeline.errors import CrosscastError, StageError
from crosscast.pipeline.init.facts import Input, Size
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.signature import Layout, Signature
from crosscast.pipeline.sources import open_source

ATTEMPTS = 64
SECONDS = 240.0
"""After so long a search has had its chance: a model that needs more is to be declared by hand."""


def settled(
    inputs: Sequence[Input],
    sizes: Mapping[str, Sequence[Size]],
    works: Callable[[tuple[Input, ...], dict[str, tuple[int, int]]], None],
) -> tuple[tuple[Input, ...], dict[str, tuple[int, int]]]:
    """The inputs and dimensions with the first sizes that work; a fixed size takes its
    dimension's place in the shapes.

    sizes: candidates for each dynamic dimension, most wanted first.
    works: raises CrosscastError where they do not.
    Raises the first attempt's StageError where none does.
    """
    first: CrosscastError | None = None
    end = time.monotonic() + SECONDS
    for choice in itertools.islice(_choices(sizes), ATTEMPTS):
        shaped, dims = bound(inputs, choice)
        try:
            works(shaped, dims)
        except CrosscastError as error:
            first = first or error
        else:
            return shaped, dims
        if time.monotonic() > end:
            break
    assert first is not None
    raise first


def bound(
    inputs: Sequence[Input], choice: Mapping[str, Size]
) -> tuple[tuple[Input, ...], dict[str, tuple[int, int]]]:
    """The inputs with those sizes: a fixed one in the shape, a range among the dimensions."""
    fixed = {name: size for name, size in choice.items() if isinstance(size, int)}
    shaped = tuple(
        Input(**{**vars(one), "shape": tuple(fixed.get(str(dim), dim) for dim in one.shape)})
        for one in inputs
    )
    return shaped, {name: size for name, size in choice.items() if not isinstance(size, int)}


def runs(source: Mapping[str, Any], layout: Layout) -> Callable[..., None]:
    """What raises CrosscastError where the source refuses an input that a build would give it."""

    def works(inputs: tuple[Input, ...], dims: dict[str, tuple[int, int]]) -> None:
        declared = Signature(inputs=tuple(one.tensor(layout) for one in inputs), dims=dims)
        module = open_source(source)
        signature = module.signature(source=source, declared=declared)
        session = module.load(source=source, signature=signature, outputs=None)
        for case in parity_cases(iter(()), signature=signature):
            try:
                session.run({name: array.copy() for name, array in case.arrays.items()})
            except CrosscastError:
                raise
            except Exception as error:
                raise StageError(f"the model refuses case '{case.name}': {error}") from error

    return works


def _choices(sizes: Mapping[str, Sequence[Size]]) -> Iterator[dict[str, Size]]:
    """Every combination, those first that depart least from what is most wanted."""
    ranks = [range(len(candidates)) for candidates in sizes.values()]
    for picks in sorted(
        itertools.product(*ranks), key=lambda picks: (sum(picks), max(picks, default=0))
    ):
        yield {
            name: candidates[pick]
            for (name, candidates), pick in zip(sizes.items(), picks, strict=True)
        }
