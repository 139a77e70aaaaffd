"""Numbers that follow the sizes of dynamic dimensions, told from a few points."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, prod

Point = Mapping[str, int]
"""A size for each dynamic dimension. Of a list of points, the second differs from the first in the
first dimension alone, the third in the second, and so on; what comes behind is free."""

MOST_POWERS = 3
"""Of a product: there are no more in any size that a network computes."""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """The product of the dimensions `powers` and of `offset` plus the sum of dimensions times
    their `factors`, over `divisor`, without a rest.

    powers: dimensions, one that counts squared twice.
    """

    offset: int
    factors: tuple[tuple[str, int], ...] = ()
    powers: tuple[str, ...] = ()
    divisor: int = 1

    @property
    def is_constant(self) -> bool:
        """Whether no dimension matters."""
        return not self.factors and not self.powers

    @property
    def names(self) -> frozenset[str]:
        """The dimensions that matter."""
        return frozenset((*self.powers, *(name for name, _ in self.factors)))


def fitted(values: Sequence[int], points: Sequence[Point]) -> Formula | None:
    """The simplest formula that gives these values at these points; None where none does."""
    if len(set(values)) == 1:
        return Formula(offset=int(values[0]))
    for powers in _powers(list(points[0])):
        products = [prod(point[name] for name in powers) for point in points]
        quotients = [Fraction(int(v), p) for v, p in zip(values, products, strict=True)]
        found = _affine(quotients, points, powers)
        if found is not None:
            return found
    return None


def _powers(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for degree in range(MOST_POWERS + 1):
        for chosen in itertools.combinations_with_replacement(names, degree):
            if all(chosen.count(name) <= 2 for name in chosen):
                yield chosen


def _affine(
    values: Sequence[Fraction], points: Sequence[Point], powers: tuple[str, ...]
) -> Formula | None:
    """The affine function through all points."""
    first = points[0]
    factors = {
        name: (value - values[0]) / (point[name] - first[name])
        for name, value, point in zip(first, values[1:], points[1:], strict=False)
    }
    offset = values[0] - sum(factor * first[name] for name, factor in factors.items())
    for value, point in zip(values, points, strict=True):
        if offset + sum(factor * point[name] for name, factor in factors.items()) != value:
            return None
    divisor = lcm(offset.denominator, *(factor.denominator for factor in factors.values()))
    return Formula(
        offset=int(offset * divisor),
        factors=tuple((name, int(each * divisor)) for name, each in factors.items() if each),
        powers=powers,
        divisor=divisor,
    )
