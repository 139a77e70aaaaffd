from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crosscast.targets.families.tflite_growth import Counted, Cut, Repeated, told
from crosscast.targets.families.tflite_numbers import Formula, Point

POINTS: list[Point] = [{"n": 2, "t": 5}, {"n": 3, "t": 5}, {"n": 2, "t": 8}, {"n": 4, "t": 9}]
TABLE = np.random.default_rng(0).standard_normal((9, 9)).astype(np.float32)


def values(rule: Callable[..., Any]) -> list[Any]:
    return [np.asarray(rule(**point)) for point in POINTS]


def size(name: str, factor: int = 1) -> Formula:
    return Formula(offset=0, factors=((name, factor),))


ONE = Formula(offset=1)


def test_equal_rows_and_blocks_are_repeated() -> None:
    found = told(values(lambda n, t: np.ones((n, 1, t), np.float32)), POINTS, bounded=False)
    assert isinstance(found, Repeated)
    assert found.counts == (size("n"), ONE, size("t"))
    found = told(values(lambda n, t: np.tile([1, 2], n)), POINTS, bounded=False)
    assert isinstance(found, Repeated)
    np.testing.assert_array_equal(found.block, [1, 2])
    assert found.counts == (size("n"),)


def test_rows_a_step_apart_are_counted_in_every_row_of_the_batch() -> None:
    found = told(
        values(lambda n, t: np.tile(3 + 2 * np.arange(t)[None], (n, 1))), POINTS, bounded=False
    )
    assert isinstance(found, Repeated)
    assert found.counts == (size("n"), ONE)
    assert isinstance(found.block, Counted)
    assert (found.block.row.item(), found.block.step.item(), found.block.axis) == (3, 2, 1)
    assert found.formulas == (size("n"), ONE, size("t"))


@pytest.mark.parametrize(
    ("part", "start"),
    [
        (lambda t: slice(0, t), Formula(offset=0)),
        (lambda t: slice(9 - t, 9), Formula(offset=9, factors=(("t", -1),))),
    ],
)
def test_a_part_of_the_greatest_is_cut(part: Callable[[int], slice], start: Formula) -> None:
    cut = values(lambda n, t: TABLE[part(t), part(t)])
    found = told(cut, POINTS, bounded=True)
    assert isinstance(found, Cut)
    assert (found.starts, found.sizes) == ((start, start), (size("t"), size("t")))
    np.testing.assert_array_equal(found.greatest, TABLE)
    assert told(cut, POINTS, bounded=False) is None


def test_a_cut_part_is_repeated_over_the_batch() -> None:
    found = told(values(lambda n, t: np.repeat(TABLE[None, :t, :t], n, 0)), POINTS, bounded=True)
    assert isinstance(found, Repeated)
    assert isinstance(found.block, Cut)
    assert found.counts == (size("n"), ONE, ONE)
    assert found.block.sizes == (ONE, size("t"), size("t"))


@pytest.mark.parametrize(
    "rule",
    [
        lambda n, t: TABLE[:t] * t,
        lambda n, t: TABLE[: t // 2],
        lambda n, t: TABLE[:t] if t < 9 else TABLE[:t, None],
    ],
)
def test_other_constants_are_not_told(rule: Callable[..., Any]) -> None:
    assert told(values(rule), POINTS, bounded=True) is None
