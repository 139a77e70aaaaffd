"""Which steps the weights of a ML Program get."""

from __future__ import annotations

import numpy as np
import pytest

from crosscast.targets.families.coreml_quantize import STEPS, Steps, chosen_steps

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(-90, 90, (8, 16))
"""None of whose rows reaches the end of the scale."""


def on_a_grid(levels: np.ndarray, scale: float | np.ndarray, zero: int = 0) -> np.ndarray:
    return ((levels - zero) * scale).astype(np.float32)


def steps_of(weight: np.ndarray) -> Steps | None:
    """Those of a weight that is all that there is."""
    return chosen_steps({"weight": weight})["weight"]


def test_weights_of_any_value_get_steps_for_each_channel() -> None:
    assert steps_of(RNG.normal(size=(8, 4, 3, 3)).astype(np.float32)) == STEPS[0]


def test_filters_of_depthwise_convolutions_stay_in_float() -> None:
    assert steps_of(RNG.normal(size=(8, 1, 3, 3)).astype(np.float32)) is None
    assert steps_of(np.rint(RNG.normal(size=(8, 1, 3, 3)) * 9).astype(np.float32)) is None
    assert steps_of(on_a_grid(LEVELS.reshape(8, 1, 16) * 0 + 127, 0.5)) == STEPS[0]


def test_the_smallest_weights_stay_in_float_up_to_a_share_of_all() -> None:
    sizes = {"large": 400, "small": 1, "smaller": 0.5, "third": 3}
    made = {
        name: RNG.normal(size=(20, round(100 * size))).astype(np.float32)
        for name, size in sizes.items()
    }
    made["grid"] = on_a_grid(np.full((20, 50), 127), 0.5)
    found = chosen_steps(made)
    assert [name for name, steps in found.items() if steps is None] == ["smaller", "small"]


def test_weights_of_zeros_have_steps() -> None:
    assert steps_of(np.zeros((4, 4), np.float32)) == STEPS[0]


@pytest.mark.parametrize("place", range(len(STEPS)))
def test_weights_on_a_grid_keep_it(place: int) -> None:
    levels = LEVELS.copy()
    scales = RNG.uniform(0.01, 0.02, (8, 1))
    per_channel = STEPS[place].granularity == "per_channel"
    if STEPS[place].mode == "linear_symmetric":
        levels[:, 0] = 127 if per_channel else LEVELS[:, 0]
        levels[0, 0], zero = 127, 0
    else:
        levels += 128
        ends = slice(None) if per_channel else slice(1)
        levels[ends, 0], levels[ends, 1], zero = 0, 255, 120
    weight = on_a_grid(levels, scales if per_channel else 0.013, zero)
    assert steps_of(weight) == STEPS[place]
