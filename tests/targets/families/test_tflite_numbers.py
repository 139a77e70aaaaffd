from __future__ import annotations

from collections.abc import Callable

import pytest

from crosscast.targets.families.tflite_numbers import Formula, Point, fitted

POINTS: list[Point] = [
    {"n": 2, "t": 5},
    {"n": 3, "t": 5},
    {"n": 2, "t": 7},
    {"n": 4, "t": 64},
]


def formula(offset: int, powers: str = "", **factors: int) -> Formula:
    return Formula(offset=offset, factors=tuple(factors.items()), powers=tuple(powers))


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (lambda n, t: 9, formula(9)),
        (lambda n, t: t, formula(0, t=1)),
        (lambda n, t: 2 * t - 1, formula(-1, t=2)),
        (lambda n, t: n + 3 * t, formula(0, n=1, t=3)),
        (lambda n, t: 8 * n * t, formula(0, "n", t=8)),
        (lambda n, t: n * (t + 1), formula(1, "n", t=1)),
        (lambda n, t: t * t, formula(0, "t", t=1)),
        (lambda n, t: n * t * t, formula(0, "nt", t=1)),
        (lambda n, t: (t + 1) // 2, None),
        (lambda n, t: n**t, None),
    ],
)
def test_the_formula_of_a_number(rule: Callable[..., int], found: Formula | None) -> None:
    assert fitted([rule(**point) for point in POINTS], POINTS) == found


def test_sizes_that_are_multiples_are_divided_without_a_rest() -> None:
    points: list[Point] = [{"w": 32}, {"w": 64}, {"w": 320}]
    found = fitted([point["w"] // 8 for point in points], points)
    assert found == Formula(offset=0, factors=(("w", 1),), divisor=8)
    assert found.names == {"w"}
    assert not found.is_constant
