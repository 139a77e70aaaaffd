from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscast.targets.families import compensation
from crosscast.targets.families.compensation import Window
from crosscast.targets.families.rounding import LEVELS


def coloured(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """What neighbours in a sound are like: each is nearly the one before."""
    steps = np.random.default_rng(seed).normal(size=(rows, length))
    return np.cumsum(steps, axis=1).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(1, 4, 9), (3, 2, 25), (2, 5, 200)]))
def test_what_is_kept_are_int8_steps_of_the_same_scales(seed: int, shape: tuple[int, ...]) -> None:
    filters = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    rows = coloured(64, shape[0] * shape[2], seed)
    kept = compensation.compensated(filters, compensation.gram(rows, shape[0]))
    scale = np.abs(filters).max(axis=2, keepdims=True) / LEVELS
    np.testing.assert_allclose(np.abs(kept).max(axis=2, keepdims=True) / LEVELS, scale, rtol=1e-6)
    levels = kept / scale
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)


@pytest.mark.parametrize("groups", [1, 4])
def test_answers_to_what_goes_together_lose_less_than_by_rounding_to_nearest(groups: int) -> None:
    filters = np.random.default_rng(1).normal(size=(groups, 6, 40)).astype(np.float32)
    rows = coloured(4000, groups * 40)
    kept = compensation.compensated(filters, compensation.gram(rows[:3000], groups))
    scale = np.abs(filters).max(axis=2, keepdims=True) / LEVELS
    nearest = np.rint(filters / scale) * scale
    fresh = rows[3000:].reshape(-1, groups, 40).transpose(1, 0, 2)

    def loss(given_filters: np.ndarray) -> float:
        return float(np.square(fresh @ (given_filters - filters).transpose(0, 2, 1)).mean())

    assert loss(kept) < loss(nearest) / 10


@pytest.mark.parametrize("read", [0.0, 1e-42, np.inf, np.nan])
def test_where_nothing_is_known_of_what_is_read_weights_go_to_the_nearest(read: float) -> None:
    filters = np.array([[[1.27, 0.554, -0.333]]], np.float32)
    kept = compensation.compensated(filters, np.full((1, 3, 3), read))
    np.testing.assert_allclose(kept, [[[1.27, 0.55, -0.33]]], rtol=1e-6)


def test_a_filter_of_zeros_stays() -> None:
    filters = np.zeros((1, 2, 5), np.float32)
    assert not compensation.compensated(filters, compensation.gram(coloured(9, 5), 1)).any()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = np.random.default_rng(2).normal(size=(1, 3, 50)).astype(np.float32)
    correlations = compensation.gram(coloured(200, 50), 1)
    whole = compensation.compensated(filters, correlations)
    monkeypatch.setattr(compensation, "BLOCK", 7)
    np.testing.assert_array_equal(compensation.compensated(filters, correlations), whole)


@pytest.mark.parametrize(
    ("strides", "dilations", "pads"),
    [((1, 1), (1, 1), ((0, 0), (0, 0))), ((2, 3), (2, 1), ((1, 2), (0, 3)))],
)
def test_patches_are_what_a_convolution_multiplies(strides, dilations, pads) -> None:
    import torch

    value = np.random.default_rng(3).normal(size=(2, 3, 9, 11)).astype(np.float32)
    weights = np.random.default_rng(4).normal(size=(5, 3, 3, 2)).astype(np.float32)
    rows = compensation.patches(value, Window((3, 2), strides, dilations, pads), 10**6)
    (top, bottom), (left, right) = pads
    padded = torch.nn.functional.pad(torch.from_numpy(value), (left, right, top, bottom))
    wanted = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weights), stride=strides, dilation=dilations
    )
    found = rows @ weights.reshape(5, -1).T
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1).reshape(-1, 5), atol=1e-4)


def test_no_more_patches_than_asked_for_and_always_the_same() -> None:
    value = coloured(1, 300).reshape(1, 1, 300)
    window = Window((5,), (1,), (1,), ((2, 2),))
    some = compensation.patches(value, window, 17)
    assert some.shape == (17, 5)
    np.testing.assert_array_equal(some, compensation.patches(value, window, 17))


def test_padding_to_the_same_size_puts_the_odd_zero_at_the_asked_end() -> None:
    window = Window((4,), (1,), (1,), ())
    assert compensation.same((10,), window, upper=True).pads == [(1, 2)]
    assert compensation.same((10,), window, upper=False).pads == [(2, 1)]
    assert compensation.same((10,), window._replace(strides=(3,)), upper=True).pads == [(1, 2)]
