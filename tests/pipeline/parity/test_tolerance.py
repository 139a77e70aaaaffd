from __future__ import annotations

import math
from itertools import pairwise

import pytest

from crosscast.pipeline.parity.metrics import Numbers
from crosscast.pipeline.parity.samples import Origin
from crosscast.pipeline.parity.tolerance import (
    TOLERANCES,
    coarsest,
    excess,
    is_gated,
    tolerance,
)


def numbers(snr_db: float = 50.0, max_error: float = 1e-3) -> Numbers:
    return Numbers(elements=1, snr_db=snr_db, max_error=max_error)


def test_each_default_has_its_reason_and_lower_precisions_have_wider_limits() -> None:
    ordered = [TOLERANCES[precision] for precision in ("fp32", "fp16", "int8", "int4")]
    assert all(limits.reason for limits in ordered)
    for tight, wide in pairwise(ordered):
        assert tight.min_snr_db > wide.min_snr_db
        assert tight.max_error < wide.max_error
        assert tight.max_mismatch < wide.max_mismatch


def test_a_user_may_change_a_limit_with_a_reason() -> None:
    limits = tolerance("int8", {"min_snr_db": 18.0, "max_error": None, "reason": "top-1 holds"})
    assert limits.min_snr_db == 18.0
    assert limits.max_error == TOLERANCES["int8"].max_error
    assert limits.override == "top-1 holds"


@pytest.mark.parametrize("overrides", [{}, {"reason": ""}, {"min_snr_db": None, "reason": "x"}])
def test_without_a_changed_limit_the_defaults_hold(overrides: dict[str, object]) -> None:
    assert tolerance("fp16", overrides) is TOLERANCES["fp16"]


def test_an_unknown_limit_is_not_passed_over() -> None:
    with pytest.raises(TypeError):
        tolerance("fp16", {"min_snr": 3, "reason": "x"})


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (numbers(), ""),
        (numbers(snr_db=math.inf, max_error=0.0), ""),
        (numbers(snr_db=29.0), "snr_db is 29.0, the limit is 33"),
        (numbers(snr_db=-math.inf), "snr_db is -inf, the limit is 33"),
        (numbers(snr_db=math.nan), "snr_db is nan, the limit is 33"),
        (numbers(max_error=0.1), "max_error is 0.1, the limit is 0.05"),
        (numbers(max_error=math.nan), "max_error is nan, the limit is 0.05"),
        (Numbers(mismatch=0.0), ""),
        (Numbers(mismatch=0.5), "mismatch is 0.5, the limit is 0.01"),
        (Numbers(mismatch=math.nan), "mismatch is nan, the limit is 0.01"),
        (Numbers(problem="shape"), "shape"),
        (Numbers(), "nothing was measured"),
    ],
)
def test_excess(measured: Numbers, expected: str) -> None:
    assert excess(measured, TOLERANCES["fp16"]) == expected


def test_a_limit_of_nan_lets_nothing_pass() -> None:
    assert excess(numbers(), tolerance("fp16", {"min_snr_db": math.nan, "reason": "x"}))


@pytest.mark.parametrize(
    ("precision", "has_real", "gated"),
    [
        ("fp32", True, {"real", "swept", "synthetic", "adversarial"}),
        ("fp16", False, {"real", "swept", "synthetic", "adversarial"}),
        ("int8", True, {"real", "swept"}),
        ("int8", False, {"synthetic"}),
        ("int4", True, {"real", "swept"}),
        ("int4", False, {"synthetic"}),
    ],
)
def test_which_cases_are_gated(precision: str, has_real: bool, gated: set[str]) -> None:
    origins: tuple[Origin, ...] = ("real", "swept", "synthetic", "adversarial")
    limits = TOLERANCES[precision]
    found = {
        origin
        for origin in origins
        if is_gated(
            origin, precision=precision, has_real=has_real, floor_db=math.inf, limits=limits
        )
    }
    assert found == gated


@pytest.mark.parametrize(("floor_db", "gated"), [(101.0, True), (99.0, False)])
def test_no_more_is_asked_than_the_source_itself_keeps(floor_db: float, gated: bool) -> None:
    limits = TOLERANCES["fp32"]
    assert gated == is_gated(
        "adversarial", precision="fp32", has_real=False, floor_db=floor_db, limits=limits
    )


def test_the_widest_limits_hold() -> None:
    assert coarsest("fp32", "", "") == "fp32"
    assert coarsest("fp32", "fp16", "") == "fp16"
    assert coarsest("fp16", "fp16", "int8") == "int8"
