"""Which of many errors is blamed, by what outputs keep with some of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import pytest

from crosscast.pipeline.parity.explanation import PARTS, costliest, parts

NAMES = [f"v{place}" for place in range(10)]
HONEST = 1e-4


def powers(
    faults: Mapping[str, float], names: Collection[str]
) -> Callable[[Collection[str]], float]:
    """Errors that are independent: their powers add up."""

    def kept_db(some: Collection[str]) -> float:
        assert set(some) <= set(names)
        return -10 * math.log10(sum(faults.get(name, HONEST) for name in some))

    return kept_db


@pytest.mark.parametrize("place", range(10))
def test_the_error_that_costs_most_is_blamed(place: int) -> None:
    found, left = costliest(NAMES, powers({NAMES[place]: 0.01}, NAMES))
    assert (found, left) == (NAMES[place], pytest.approx(20))


@pytest.mark.parametrize("count", [1, PARTS, PARTS + 1, 1000, 5000])
def test_of_many_it_is_found_in_few_trials(count: int) -> None:
    names = [f"v{place}" for place in range(count)]
    wrong = names[count // 3]
    trials = []
    kept_db = powers({wrong: 0.01}, names)

    def counted(some: Collection[str]) -> float:
        trials.append(some)
        return kept_db(some)

    assert costliest(names, counted)[0] == wrong
    assert len(trials) <= min(count, 5 * PARTS) + PARTS


def test_what_only_errs_behind_the_fault_is_not_blamed() -> None:
    """v5 is so wrong, that v7 saturates: that is worse alone, and no worse on top of v5."""

    def kept_db(some: Collection[str]) -> float:
        if "v5" in some:
            return 3.0
        return -5.0 if "v7" in some else 40.0

    assert costliest(NAMES, kept_db)[0] == "v5"


def test_what_the_next_layer_takes_back_is_not_blamed() -> None:
    """v2 and v3 are scaled against each other; what costs is v8."""

    def kept_db(some: Collection[str]) -> float:
        if ("v2" in some) != ("v3" in some):
            return -10.0
        return 12.0 if "v8" in some else 40.0

    assert costliest(NAMES, kept_db)[0] == "v8"


def test_what_destroys_the_outputs_has_a_number() -> None:
    found = costliest(NAMES, lambda some: -math.inf if "v4" in some else math.inf)
    assert found == ("v4", -math.inf)


def test_parts_are_neighbours() -> None:
    assert parts(NAMES) == [(name,) for name in NAMES]
    names = [f"v{place}" for place in range(3 * PARTS)]
    assert parts(names)[1] == ("v3", "v4", "v5")
