from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from crosscast.pipeline.parity.metrics import Extent, Numbers, compare
from crosscast.pipeline.parity.tolerance import TOLERANCES, excess

SHAPES = npst.array_shapes(min_dims=0, max_dims=3, max_side=4)
NORMAL = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
DTYPES = st.sampled_from([np.float16, np.float32, np.float64])


def measured(reference: Any, got: Any, typical: Extent | None = None) -> Numbers:
    one, other = np.asarray(reference), np.asarray(got)
    return compare(one, other, typical=Extent.of(one) if typical is None else typical)


@st.composite
def pairs(draw: st.DrawFn, elements: st.SearchStrategy[float] | None = None) -> Any:
    dtype, shape = draw(DTYPES), draw(SHAPES)
    if elements is None:
        elements = npst.from_dtype(np.dtype(dtype))
    array = npst.arrays(dtype, shape, elements=elements)
    return draw(array), draw(array)


@settings(deadline=None)
@given(pairs())
def test_no_number_is_nan_whatever_the_values(pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    numbers = measured(*pair)
    values = [value for value in numbers if isinstance(value, float)]
    assert not any(math.isnan(value) for value in values)
    assert numbers.problem or len(values) >= 3


@settings(deadline=None)
@given(pairs())
def test_what_equals_itself_is_perfect(pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    numbers = measured(pair[0], pair[0].copy())
    assert not numbers.problem
    assert (numbers.snr_db, numbers.max_error) == (math.inf, 0.0)
    assert numbers.cosine == pytest.approx(1.0)
    assert numbers.agreement in (None, 1.0)


@settings(deadline=None)
@given(pairs(), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_what_is_not_finite_is_never_accepted_out_of_place(
    pair: tuple[NDArray[Any], NDArray[Any]], bad: float, data: st.DataObject
) -> None:
    reference = pair[0]
    place = tuple(data.draw(st.integers(0, side - 1)) for side in reference.shape)
    assume(repr(float(reference[place])) != repr(bad))
    got = reference.copy()
    got[place] = bad
    for one, other in ((reference, got), (got, reference)):
        numbers = measured(one, other)
        assert "where the source gives" in numbers.problem
        assert all(excess(numbers, limits) for limits in TOLERANCES.values())


@settings(deadline=None)
@given(npst.arrays(np.float64, (2, 3), elements=NORMAL), st.integers(-60, 60), st.booleans())
def test_scale_and_sign_do_not_matter(
    reference: NDArray[Any], exponent: int, negative: bool
) -> None:
    got = reference + np.linspace(-1, 1, 6).reshape(2, 3)
    factor = 2.0**exponent * (-1 if negative else 1)
    one, other = measured(reference, got), measured(reference * factor, got * factor)
    assert one.snr_db == pytest.approx(other.snr_db)
    assert one.max_error == pytest.approx(other.max_error)
    assert one.cosine == pytest.approx(other.cosine)


@settings(deadline=None)
@given(pairs(elements=st.floats(-100, 100, width=16)), st.randoms(use_true_random=False))
def test_the_order_of_elements_does_not_matter(
    pair: tuple[NDArray[Any], NDArray[Any]], random: Any
) -> None:
    order = list(range(pair[0].size))
    random.shuffle(order)
    one = measured(pair[0].ravel(), pair[1].ravel())
    other = measured(pair[0].ravel()[order], pair[1].ravel()[order])
    assert one.snr_db == pytest.approx(other.snr_db)
    assert one.max_error == pytest.approx(other.max_error)
    assert one.cosine == pytest.approx(other.cosine, abs=1e-12)


@settings(deadline=None)
@given(pairs(elements=st.floats(-100, 100, width=16)))
def test_more_error_is_never_better(pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    reference = pair[0].astype(np.float64)
    error = pair[1].astype(np.float64)
    one, two = measured(reference, reference + error), measured(reference, reference + 2 * error)
    assert one.snr_db is not None
    assert two.snr_db is not None
    assert two.snr_db <= one.snr_db
    assert two.max_error is not None
    assert one.max_error is not None
    assert two.max_error >= one.max_error


def test_known_numbers() -> None:
    numbers = measured([3.0, -4.0, 0.0, 5.0], [3.0, -4.0, 0.0, 5.05])
    assert numbers.snr_db == pytest.approx(20 * math.log10(math.sqrt(50) / 0.05))
    assert numbers.max_error == pytest.approx(0.05 / 9)
    assert numbers.agreement == 1.0
    assert numbers.elements == 4


def test_zero_for_something_is_as_loud_as_the_signal() -> None:
    numbers = measured([[1.0, 2.0], [3.0, 4.0]], np.zeros((2, 2)))
    assert numbers.snr_db == pytest.approx(0.0)
    assert numbers.cosine == 0.0
    assert numbers.max_error == pytest.approx(4 / 3)


def test_nothing_in_the_case_is_judged_at_the_typical_scale() -> None:
    zeros, noise = np.zeros(4, np.float32), np.full(4, 1e-6, np.float32)
    typical = Extent.typical([Extent.of(np.array([-1.0, 1.0])), Extent.of(zeros)])
    numbers = measured(zeros, noise, typical)
    assert numbers.snr_db == pytest.approx(20 * math.log10(0.5 / 1e-6))
    assert numbers.max_error == pytest.approx(0.5e-6)
    assert measured(zeros, noise).snr_db == -math.inf


def test_a_constant_output_is_judged_by_its_magnitude() -> None:
    numbers = measured(np.ones(3, np.float32), np.full(3, 1 + 1e-6, np.float32))
    assert not excess(numbers, TOLERANCES["fp32"])
    assert excess(measured(np.ones(3), np.full(3, 1.1)), TOLERANCES["fp16"])


def test_infinities_that_match_are_left_out_of_the_numbers() -> None:
    reference = np.array([1.0, np.inf, -np.inf, np.nan])
    numbers = measured(reference, np.array([1.0, np.inf, -np.inf, np.nan]))
    assert (numbers.problem, numbers.snr_db, numbers.agreement) == ("", math.inf, 1.0)
    assert "inf at (2,)" in measured(reference, [1.0, np.inf, np.inf, np.nan]).problem


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (np.ones((1, 2), np.float32), "shape (1, 2) where the source gives (2,)"),
        (np.ones(2, np.float64), "dtype float64 where the source gives float32"),
        (np.ones(2, np.int32), "dtype int32 where the source gives float32"),
        (np.array([np.nan, np.nan], np.float32), "nan at (0,) where the source gives 1.0, and 1"),
    ],
)
def test_problems_are_named(got: NDArray[Any], expected: str) -> None:
    assert expected in measured(np.ones(2, np.float32), got).problem


def test_integers_and_booleans_are_counted() -> None:
    assert measured([1, 2, 3, 4], [1, 2, 3, 5]).mismatch == 0.25
    assert measured([True, False], [True, True]).mismatch == 0.5
    assert measured(np.zeros(0, int), np.zeros(0, int)).mismatch == 0.0
    numbers = measured([2**62], [2**62 + 1])
    assert (numbers.mismatch, numbers.snr_db) == (1.0, None)


def test_agreement_is_of_rows() -> None:
    reference = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert measured(reference, [[0.0, 1.0], [0.0, 1.0]]).agreement == 0.5
    assert measured([1.0], [1.0]).agreement is None
    assert measured(1.0, 1.0).agreement is None


def test_values_at_the_ends_of_float64() -> None:
    numbers = measured([1e308, -1e308], [-1e308, 1e308])
    assert numbers.max_error == pytest.approx(1.0)
    assert numbers.cosine == pytest.approx(-1.0)
    numbers = measured([5e-324, 0.0], [0.0, 5e-324])
    assert numbers.snr_db == pytest.approx(0.0)
