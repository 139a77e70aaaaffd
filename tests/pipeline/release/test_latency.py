"""Ratios of paired times: what they tell, and what noise they see through."""

from __future__ import annotations

import math
import random

import pytest

from crosscast.pipeline.release.latency import compared


def noisy(seed: int, *, factor: float, pairs: int = 200) -> tuple[list[float], list[float]]:
    """Samples of a machine that others use as well: slow phases, and outliers on either side."""
    chance = random.Random(seed)
    before, after = [], []
    for index in range(pairs):
        phase = 1 + 0.5 * math.sin(index / 20)
        one, other = (1e-3 * phase * chance.lognormvariate(0, 0.2) for _ in range(2))
        before.append(one * (10 if chance.random() < 0.05 else 1))
        after.append(factor * other * (10 if chance.random() < 0.05 else 1))
    return before, after


def test_an_equal_pair_is_hardly_ever_called_slower() -> None:
    lows = [compared(*noisy(seed, factor=1.0)).low for seed in range(200)]
    assert sum(low > 1 for low in lows) <= 4  # 99 % confidence; 0.5 % on either side
    assert all(low < 1.1 for low in lows)


def test_a_slower_one_is_always_found() -> None:
    lows = [compared(*noisy(seed, factor=1.3)).low for seed in range(200)]
    assert all(low > 1.1 for low in lows)


def test_the_median_lies_in_its_interval() -> None:
    timing = compared(*noisy(0, factor=1.2))
    assert timing.low < timing.ratio < timing.high
    assert timing.ratio == pytest.approx(1.2, rel=0.05)


# Least and greatest of n values hold their median with 1 - 2 / 2**n: 99.2 % for 8, 98.4 % for 7.
# For 25 values the 99 % interval is from the 6th to the 20th (Conover, table of the binomial).
@pytest.mark.parametrize(("pairs", "low", "high"), [(8, 1, 8), (25, 6, 20)])
def test_the_interval_is_that_of_the_sign_test(pairs: int, low: int, high: int) -> None:
    timing = compared([1.0] * pairs, [float(rank) for rank in range(1, pairs + 1)])
    assert (timing.low, timing.high) == (low, high)


@pytest.mark.parametrize("pairs", [1, 7])
def test_too_few_pairs_decide_nothing(pairs: int) -> None:
    timing = compared([1.0] * pairs, [100.0] * pairs)
    assert (timing.low, timing.high) == (0.0, math.inf)
