from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.targets.families.parameters import Parameters

LEVELS = np.array([[-127, 5], [3, 127]], np.int8)


def said(**more: Any) -> list[str]:
    settings = {"tensor": "w", "scales": np.float32([0.1, 0.2]), "channels": 2, "levels": LEVELS}
    return list(Parameters(**{**settings, **more}).problems())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"scales": np.float32([0.1])},
        {"scales": np.float16([6e-8, 0.2])},
        {"points": np.array([-128, 127])},
        {"dtype": "uint8", "points": np.uint8([0, 255])},
        {"dtype": "int32", "points": np.int32([0, 0])},
        {"dtype": "int32", "levels": np.zeros(2, np.int32)},
        {"levels": np.zeros((2, 2), np.int8), "scales": np.float32([1, 1])},
        {"levels": np.zeros((2, 2), np.int8), "scales": np.float32([1e-11, 1])},
        {"levels": np.int8([[0, 0], [1, 127]])},
        {"scales": np.float32([0.1, 1e-40])},  # a channel without weights, by some quantizers
    ],
)
def test_what_quantizers_write_is_no_problem(more: dict[str, Any]) -> None:
    assert said(**more) == []


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"scales": np.float32([0, 0.1])}, "'w' has the scale 0, which is no step's size"),
        ({"scales": np.float32([-1, -2])}, "'w' has the scale -1 (and 1 more), which is no step's"),
        ({"scales": np.float32([0.1, np.nan])}, "'w' has the scale nan, which"),
        ({"scales": np.float32([0.1, np.inf])}, "'w' has the scale inf, which"),
        ({"points": np.array([0, 128])}, "'w' has the zero point 128, out of -128 to 127 of int8"),
        (
            {"dtype": "uint8", "points": np.array([-1])},
            "'w' has the zero point -1, out of 0 to 255 of uint8",
        ),
        (
            {"dtype": "int32", "points": np.array([3])},
            "'w' has the zero point 3, out of 0 to 0 of int32",
        ),
        ({"channels": 3}, "'w' has 2 scales for 3 channels"),
        (
            {"levels": np.zeros((2, 2), np.int8)},
            "'w' is all zero at the scale 0.2, which is larger than any of its values",
        ),
        (
            {"levels": np.full((2, 2), 7, np.uint8), "points": np.uint8([7, 7]), "dtype": "uint8"},
            "'w' is all zero at the scale 0.2, which is larger",
        ),
    ],
)
def test_what_none_may_write_is_said(more: dict[str, Any], line: str) -> None:
    (found,) = said(**more)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("more", "values"),
    [
        ({"axis": 0}, [[-12.7, 0.5], [0.6, 25.4]]),
        ({"axis": -1}, [[-12.7, 1.0], [0.3, 25.4]]),
        ({"scales": np.float32([0.1])}, [[-12.7, 0.5], [0.3, 12.7]]),
        ({"scales": np.float32([[0.1], [0.2]])}, [[-12.7, 0.5], [0.6, 25.4]]),
        ({"axis": 0, "points": np.array([1, 0])}, [[-12.8, 0.4], [0.6, 25.4]]),
    ],
)
def test_levels_stand_for_real_numbers(more: dict[str, Any], values: Any) -> None:
    weight = Parameters(
        **{"tensor": "w", "scales": np.float32([0.1, 0.2]), "levels": LEVELS, **more}
    ).weight
    assert weight is not None
    np.testing.assert_allclose(weight.values, values, rtol=1e-6)


def test_blocks_have_a_scale_each() -> None:
    levels = np.int8([[1, 1, 1, 1], [2, 2, 2, 2]])
    scales = np.float32([[1, 2], [3, 4]])
    weight = Parameters(tensor="w", scales=scales, levels=levels).weight
    assert weight is not None
    assert weight.values.tolist() == [[1, 1, 2, 2], [6, 6, 8, 8]]


@pytest.mark.parametrize(
    "more",
    [
        {"levels": None},
        {"dtype": "int32"},
        {"scales": np.float32([1, 2, 3])},
        {"scales": np.ones((2, 2, 2), np.float32)},
        {},  # it is not known along which axis
    ],
)
def test_what_is_no_weight_or_has_scales_that_do_not_fit(more: dict[str, Any]) -> None:
    settings = {"tensor": "w", "scales": np.float32([0.1, 0.2]), "levels": LEVELS, **more}
    assert Parameters(**settings).weight is None
