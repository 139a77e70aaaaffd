"""Which tensor of a network a runtime's tensor stands for: by its name, else by its values. Pure.

An artifact's tensors have names of its format, other layouts and other shapes than those of the
float network that it comes from; some of that network's have no counterpart, since operators were
fused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.parity.tolerance import TOLERANCES

CLOSE_DB = TOLERANCES["int4"].min_snr_db
"""Above this, tensors are taken for the same whatever they are called: what comes nearest of all
that is wrong stays below the limit of the least precision."""

LEAST_SIZE = 16
"""Elements; fewer are alike by chance, so that only a name tells."""

CANDIDATES = 6
"""Tensors of a size whose values are looked at; those with the nearest moments."""

MOST_AXES = 5
"""Axes whose every order is tried."""


def snr_db(reference: NDArray[Any], got: NDArray[Any]) -> float:
    """20 log10(rms(r) / rms(g - r)) of arrays of one shape: infinite where nothing differs, minus
    infinity where values are not finite that the reference has, or where it is all zeros.
    """
    wanted, given = reference.astype(np.float64), got.astype(np.float64)
    usable = np.isfinite(wanted)
    if not np.isfinite(given[usable]).all():
        return -math.inf
    noise = _rms(given[usable] - wanted[usable])
    signal = _rms(wanted[usable])
    if noise == 0.0:
        return math.inf
    return 20.0 * math.log10(signal / noise) if signal else -math.inf


def arrangements(array: NDArray[Any], shape: Sequence[int]) -> Iterator[NDArray[Any]]:
    """The array in a shape of as many elements: as it is or with its last axis as its second
    (NHWC to NCHW) where that fits; else with its axes in every order that fits, and reshaped.
    """
    wanted = tuple(shape)
    usual = [array, *([np.moveaxis(array, -1, 1)] if array.ndim > 2 else [])]
    fitting = [one for one in usual if one.shape == wanted]
    yield from fitting
    if fitting:
        return
    slim, sizes = array.squeeze(), tuple(size for size in wanted if size != 1)
    if slim.ndim == len(sizes) <= MOST_AXES:
        for order in permutations(range(slim.ndim)):
            if tuple(slim.shape[axis] for axis in order) == sizes:
                yield slim.transpose(order).reshape(wanted)
    if slim.shape != sizes:
        yield array.reshape(wanted)


@dataclass(frozen=True)
class Moments:
    """Numbers of a tensor that no order of its elements changes. The difference of each is at most
    the rms of the difference of two tensors (Minkowski's and Jensen's inequalities).
    """

    rms: float
    mean: float
    magnitude: float

    @classmethod
    def of(cls, array: NDArray[Any]) -> Moments:
        """Of the finite values."""
        values = array[np.isfinite(array)].astype(np.float64)
        if not values.size:
            return cls(0.0, 0.0, 0.0)
        return cls(_rms(values), float(values.mean()), float(np.abs(values).mean()))

    def distance(self, other: Moments) -> float:
        """What the rms of the difference of two such tensors is at least."""
        pairs = zip(
            (self.rms, self.mean, self.magnitude),
            (other.rms, other.mean, other.magnitude),
            strict=True,
        )
        return max(abs(mine - its) for mine, its in pairs)


@dataclass(frozen=True, kw_only=True)
class Match:
    """A tensor's counterpart. array: the tensor in the reference's shape. snr_db: of it."""

    name: str
    array: NDArray[Any]
    snr_db: float


@dataclass(kw_only=True)
class Reference:
    """The float network's tensors, in order, to find counterparts among.

    read: gives a tensor by its name. names: its tensors by what an artifact may call them.
    """

    read: Callable[[str], NDArray[Any]]
    names: Mapping[str, str]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _moments: dict[int, dict[str, Moments]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.names = {canonical(name): tensor for name, tensor in self.names.items()}

    def add(self, name: str, array: NDArray[Any]) -> None:
        """Take in the next tensor."""
        self.shapes[name] = array.shape
        self._moments.setdefault(array.size, {})[name] = Moments.of(array)

    def match(self, called: str, array: NDArray[Any]) -> Match | None:
        """The counterpart of a tensor: that of its name where values agree, else the nearest by
        values that has no counterpart yet, else that of its name though values do not agree.
        """
        named = self._named(called, array)
        if named is not None and named.snr_db >= CLOSE_DB:
            found: Match | None = named
        else:
            found = self._alike(array) or named
        if found is not None:
            self._taken.add(found.name)
        return found

    def _named(self, called: str, array: NDArray[Any]) -> Match | None:
        name = self.names.get(canonical(called))
        if name not in self.shapes or math.prod(self.shapes[name]) != array.size:
            return None
        return self._best(name, array)

    def _alike(self, array: NDArray[Any]) -> Match | None:
        if array.size < LEAST_SIZE:
            return None
        own = Moments.of(array)
        near = {
            name: distance
            for name, moments in self._moments.get(array.size, {}).items()
            if name not in self._taken
            and (distance := own.distance(moments)) < moments.rms * 10 ** (-CLOSE_DB / 20)
        }
        names = sorted(near, key=lambda name: near[name])[:CANDIDATES]
        best = max(
            (self._best(name, array) for name in names), key=lambda one: one.snr_db, default=None
        )
        return best if best is not None and best.snr_db >= CLOSE_DB else None

    def _best(self, name: str, array: NDArray[Any]) -> Match:
        wanted = self.read(name)
        ways = [
            Match(name=name, array=one, snr_db=snr_db(wanted, one))
            for one in arrangements(array, wanted.shape)
        ]
        return max(ways, key=lambda one: one.snr_db)


def canonical(name: str) -> str:
    """A name in the letters that every format has."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def _rms(values: NDArray[Any]) -> float:
    return math.sqrt(float(np.mean(values * values))) if values.size else 0.0
