from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.parity.gains import Weight, problems

RANDOM = np.random.default_rng(0)
FLOATS = RANDOM.standard_normal((8, 64)).astype(np.float32) * np.logspace(-2, 0, 8)[:, None]
OTHER = Weight("other", RANDOM.standard_normal((8, 64)))


def rounded(values: Any, *, levels: int = 127, axis: int | None = 1) -> Weight:
    """To the steps of a symmetric quantizer, one a row or one for all."""
    steps = np.abs(values).max(axis, keepdims=True) / levels
    return Weight("w", np.rint(values / steps) * steps, steps)


def said(quantized: Weight, original: Any = FLOATS) -> list[str]:
    return list(problems([quantized], [OTHER, Weight("w", original)]))


@pytest.mark.parametrize("levels", [127, 7])
@pytest.mark.parametrize("axis", [1, None])
def test_rounding_leaves_weights_as_large_as_they_were(levels: int, axis: int | None) -> None:
    assert said(rounded(FLOATS, levels=levels, axis=axis)) == []
    assert said(rounded(FLOATS.T, levels=levels, axis=axis and 0)) == []  # the other layout


def test_so_does_rounding_by_blocks() -> None:
    blocks = rounded(FLOATS.reshape(-1, 16), levels=7)
    assert blocks.steps is not None
    whole = Weight("w", blocks.values.reshape(8, 64), np.repeat(blocks.steps, 16).reshape(8, 64))
    assert said(whole) == []
    assert len(said(Weight("w", whole.values * 1.25, whole.steps))) == 1


@pytest.mark.parametrize("levels", [127, 7])
@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_a_wrong_scale_is_said(levels: int, factor: float) -> None:
    honest = rounded(FLOATS, levels=levels)
    (line,) = said(Weight("w", honest.values * factor, honest.steps * factor))
    assert re.fullmatch(
        r"'w' is (0\.7|1\.2)\d times as large as the weight that it was quantized from, in 8 of 8 "
        "channels",
        line,
    )


def test_the_scale_of_one_channel_is_enough() -> None:
    honest = rounded(FLOATS)
    factors = np.where(np.arange(8) == 5, 1.25, 1.0)[:, None]
    wrong = Weight("w", honest.values * factors, honest.steps * factors)
    assert said(wrong) == [
        "'w' is 1.25 times as large as the weight that it was quantized from, in 1 of 8 channels"
    ]


def test_one_scale_for_all_is_counted_once() -> None:
    honest = rounded(FLOATS, axis=None)
    assert said(Weight("w", honest.values * 1.25, honest.steps)) == [
        "'w' is 1.25 times as large as the weight that it was quantized from"
    ]


def test_a_channel_smaller_than_a_step_may_vanish() -> None:
    small = FLOATS * np.where(np.arange(8) == 0, 1e-4, 1.0)[:, None]
    found = rounded(small, axis=None)
    assert not found.values[0].any()
    assert said(found, small) == []


def test_a_channel_below_the_normal_numbers_has_no_size() -> None:
    tiny = FLOATS * np.where(np.arange(8) == 0, 1e-37, 1.0)[:, None]
    factors = np.where(np.arange(8) == 0, 1.7, 1.0)[:, None]
    honest = rounded(tiny)
    assert said(Weight("w", honest.values * factors, honest.steps * factors), tiny) == []


def test_what_has_no_counterpart_is_not_judged() -> None:
    folded = FLOATS * RANDOM.uniform(-3, 3, 64)  # such as by a norm
    assert said(Weight("w", rounded(folded).values * 1.25, rounded(folded).steps)) == []
    few = FLOATS[0, :32]
    assert said(Weight("w", few * 1.25, np.float32([1e-3])), few) == []


def test_one_of_several_that_are_alike_is_enough() -> None:
    floats = [Weight("a", FLOATS * 1.5), Weight("b", FLOATS), Weight("c", FLOATS * 0)]
    assert list(problems([rounded(FLOATS)], floats)) == []
    assert len(list(problems([rounded(FLOATS * 1.25)], floats))) == 1


def test_floats_are_not_judged() -> None:
    assert said(Weight("w", FLOATS * 1.25)) == []
