"""What a reference is like as a whole, and whether agreeing with it would prove anything. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from crosscast.pipeline.parity.metrics import Extent, compare
from crosscast.pipeline.parity.samples import Origin
from crosscast.pipeline.parity.tolerance import Tolerance, excess
from crosscast.pipeline.parity.vectors import Vector

REAL: tuple[Origin, ...] = ("real", "swept")
MADE: tuple[Origin, ...] = ("synthetic",)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """typical: what each output is like in real use: over real rows, or else synthetic ones.

    origins: number of cases by origin. empty: outputs without a finite value in any case.
    """

    typical: Mapping[str, Extent]
    origins: Mapping[str, int]
    empty: tuple[str, ...]

    @property
    def has_real(self) -> bool:
        """Whether any case came from real samples."""
        return any(origin in self.origins for origin in REAL)


def gather(vectors: Iterable[Vector]) -> Baseline:
    """Read all vectors once, keeping only numbers."""
    seen = Gathered()
    for vector in vectors:
        seen.add([vector])
    return seen.baseline()


class Gathered:
    """The numbers of the vectors so far."""

    def __init__(self) -> None:
        self._origins: Counter[str] = Counter()
        self._extents: dict[str, dict[str, list[Extent]]] = defaultdict(lambda: defaultdict(list))

    def add(
        self, vectors: Sequence[Vector], known: Mapping[str, Sequence[Extent]] | None = None
    ) -> None:
        """Take in vectors of one origin and equal shapes. known: what outputs of them are like."""
        origin, known = vectors[0].case.origin, known or {}
        self._origins[origin] += len(vectors)
        for name in vectors[0].outputs:
            found = known.get(name) or Extent.each([vector.outputs[name] for vector in vectors])
            self._extents[name][origin].extend(found)

    def baseline(self) -> Baseline:
        """Of all of them."""
        return Baseline(
            typical={name: _typical(found) for name, found in self._extents.items()},
            origins=dict(self._origins),
            empty=tuple(
                name
                for name, found in self._extents.items()
                if not any(extent.finite for every in found.values() for extent in every)
            ),
        )


def proves_nothing(vectors: Iterable[Vector], *, baseline: Baseline, limits: Tolerance) -> str:
    """Why agreement with the reference would prove nothing; empty where it proves something.

    It proves nothing if an artifact that ignores its inputs could agree as well: one that answers
    every case with the outputs of the first of the same shape.
    """
    if baseline.empty:
        return f"the source's output '{baseline.empty[0]}' has no finite value in any case"
    first: dict[tuple[str, tuple[int, ...]], NDArray[Any]] = {}
    compared: set[str] = set()
    for vector in vectors:
        for name, array in vector.outputs.items():
            stuck = first.setdefault((name, array.shape), array)
            if stuck is array:
                continue
            compared.add(name)
            if excess(compare(array, stuck, typical=baseline.typical[name]), limits):
                return ""
    if compared and compared == set(baseline.typical):
        return "the source's outputs hardly vary with its inputs: agreement proves nothing"
    return ""


def _typical(extents: Mapping[str, list[Extent]]) -> Extent:
    for origins in (REAL, MADE):
        found = [extent for origin in origins for extent in extents.get(origin, ())]
        if found:
            return Extent.typical(found)
    return Extent.typical([extent for every in extents.values() for extent in every])
