from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscast.targets.families.rounding import LEVELS, keep_sums


def scales(weights: np.ndarray) -> np.ndarray:
    return np.abs(weights.reshape(weights.shape[0], -1)).max(axis=1) / LEVELS


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(4, 3, 3, 3), (8, 1, 3, 3), (5, 7, 1, 1), (6, 40)]))
def test_sums_are_kept_and_levels_are_int8(seed: int, shape: tuple[int, ...]) -> None:
    weights = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    kernel = int(np.prod(shape[2:])) if len(shape) > 2 else 1
    kept = keep_sums(weights, axis=0, kernel=kernel)
    scale = scales(weights)
    np.testing.assert_allclose(scales(kept), scale, rtol=1e-6)
    levels = kept.reshape(shape[0], -1) / scale[:, None]
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    assert np.abs(levels).max() <= LEVELS + 1e-3
    error = (kept - weights).reshape(shape[0], -1)
    assert (np.abs(error.sum(axis=1)) <= 0.5001 * scale).all()
    assert (np.abs(error) <= 1.5001 * scale[:, None]).all()


def test_a_depthwise_kernel_keeps_its_response_to_a_flat_patch() -> None:
    weights = np.array([[[[-3.3, 17.0, -3.4], [-3.4, -3.3, -1.2], [-1.3, -0.7, -0.33]]]], "f4")
    nearest = np.rint(weights / scales(weights)) * scales(weights)
    kept = keep_sums(weights, axis=0, kernel=9)
    assert abs(kept.sum() - weights.sum()) < abs(nearest.sum() - weights.sum())


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_any_axis_can_be_the_channels(axis: int) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 5, 3, 6)).astype(np.float32)
    expected = keep_sums(np.moveaxis(weights, axis, 0), axis=0, kernel=1)
    np.testing.assert_array_equal(
        keep_sums(weights, axis=axis, kernel=1), np.moveaxis(expected, 0, axis)
    )


def test_a_channel_of_zeros_stays_zero() -> None:
    weights = np.zeros((2, 3, 3, 3), np.float32)
    weights[1] = 1.0
    np.testing.assert_array_equal(keep_sums(weights, axis=0, kernel=9), weights)
