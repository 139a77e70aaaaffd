"""Intervals against published ones, against scipy's, and against what they are for."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest

from crosscast.pipeline.parity.intervals import FEWEST, bca, enough, interval, score


@pytest.mark.parametrize(
    ("b", "c", "n", "published"),
    [
        # Fagerland, Lydersen & Laake, Stat. Methods Med. Res. 23 (2014): airway
        # hyper-responsiveness before and after transplantation, 1, 1, 7, 12
        (1, 7, 21, (-0.517, -0.026)),
        # Agresti & Min, Statistics in Medicine 24 (2005): 53, 16, 8, 9
        (16, 8, 86, (-0.020, 0.207)),
    ],
)
def test_tangos_interval_is_the_published_one(
    b: int, c: int, n: int, published: tuple[float, float]
) -> None:
    found = score(b, c, n, confidence=0.95)
    assert tuple(round(end, 3) for end in found) == published
    swapped = score(c, b, n, confidence=0.95)
    assert swapped == pytest.approx((-found[1], -found[0]))


def test_without_any_that_differ_it_is_as_wide_as_the_number_allows() -> None:
    # z^2 / (n + z^2), by hand from Tango's statistic
    low, high = score(0, 0, 20, confidence=0.95)
    assert (low, high) == pytest.approx((-0.16113, 0.16113), abs=1e-5)


def test_the_ends_stay_within_what_can_be() -> None:
    assert score(5, 0, 5, confidence=0.95)[1] == 1
    assert score(0, 5, 5, confidence=0.95)[0] == -1


def test_the_bootstrap_is_that_of_scipy() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).exponential(1, 80)
    wanted = bootstrap(
        (values,), np.mean, n_resamples=9999, method="BCa", rng=np.random.default_rng(4)
    ).confidence_interval
    assert bca(values.tolist(), confidence=0.95) == pytest.approx(tuple(wanted), abs=0.02)
    assert bca(values.tolist(), confidence=0.95) == bca(values.tolist(), confidence=0.95)


def method(differences: list[float], span: float = 1.0) -> str:
    return interval(differences, span=span, confidence=0.95).method


def test_each_method_is_used_where_it_holds() -> None:
    partial = [0.1, -0.2] * FEWEST
    assert method([1.0, -1.0, 0.0] * 100) == "Tango's score interval"
    assert method(partial) == "paired bootstrap (BCa)"
    assert method(partial[: FEWEST - 1]) == "Tango's score interval, on sums"
    assert method([0.25] * 1000) == "Tango's score interval, on sums"


@pytest.mark.parametrize("span", [1.0, 40.0])
def test_few_that_differ_never_give_an_interval_of_no_width(span: float) -> None:
    found = interval([0.0] * 20, span=span, confidence=0.95)
    assert (found.low, found.high) == pytest.approx((-0.16113 * span, 0.16113 * span), abs=1e-3)


def test_on_sums_it_is_wider_than_the_bootstrap() -> None:
    differences = [0.1, -0.05, 0.2] * 20
    up, down = 20 * 0.3, 20 * 0.05
    narrow, wide = bca(differences, confidence=0.95), score(up, down, 60, confidence=0.95)
    assert wide[0] < narrow[0] < fmean(differences) < narrow[1] < wide[1]


@pytest.mark.parametrize("limit", [0.01, 0.05])
def test_so_many_samples_are_enough_and_fewer_are_not(limit: float) -> None:
    count = enough([0.0] * 20, span=1, confidence=0.95, limit=limit)
    assert count is not None
    assert interval([0.0] * count, span=1, confidence=0.95).high <= limit
    assert interval([0.0] * (count - 1), span=1, confidence=0.95).high > limit


def test_a_drop_that_is_too_great_needs_samples_to_be_told_too() -> None:
    few = [1.0] + [0.0] * 9
    count = enough(few, span=1, confidence=0.95, limit=0.05)
    assert count is not None
    assert count % 10 == 0 or count > 10
    more = few * (count // 10 + 1)
    assert interval(more, span=1, confidence=0.95).low > 0.05


def test_of_a_bootstrap_the_width_goes_with_the_root_of_the_number() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, 100)
    values += 0.1 - values.mean()
    count = enough(values.tolist(), span=10, confidence=0.95, limit=0.2)
    high = bca(values.tolist(), confidence=0.95)[1]
    assert count == pytest.approx(100 * ((high - 0.1) / 0.1) ** 2, abs=1)


def test_no_number_is_enough_to_tell_a_drop_from_itself() -> None:
    assert enough([1.0, 0.0] * 10, span=1, confidence=0.95, limit=0.5) is None
    same = [0.25, 0.75] * FEWEST
    assert enough(same, span=1, confidence=0.95, limit=0.5) is None


def test_intervals_of_95_percent_hold_the_truth_so_often() -> None:
    random = np.random.default_rng(6)
    held = 0
    for _ in range(400):
        draws = random.choice([1, -1, 0], size=80, p=[0.06, 0.02, 0.92])
        found = interval(draws.tolist(), span=1, confidence=0.95)
        held += found.low <= 0.04 <= found.high
    assert 0.92 <= held / 400 <= 0.99
