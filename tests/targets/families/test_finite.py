from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from crosscast.targets.families import finite

CAUSAL = np.triu(np.full((3, 3), -np.inf, np.float32), 1)


@pytest.mark.parametrize(
    ("array", "is_summed"),
    [
        (np.ones((2, 2), np.float32), True),
        (np.float32([[65504, -3.4e38]]), True),
        (CAUSAL, False),
        (np.float32([1, -np.inf]), True),  # a bias that rules a class out
        (np.zeros((0, 2), np.float32), True),
    ],
)
def test_what_is_right_is_no_problem(array: Any, is_summed: bool) -> None:
    assert finite.problem("w", array, is_summed=is_summed) == ""


@pytest.mark.parametrize(
    ("array", "is_summed", "line"),
    [
        (np.float32([1, np.nan]), False, r"'w' holds nan at \(1,\), which"),
        (np.float16([[1, 2], [np.nan, np.nan]]), False, r"nan at \(1, 0\) \(and 1 more\)"),
        (np.float64(np.nan), False, r"nan at \(\)"),
        (CAUSAL, True, r"'w' holds -inf at \(0, 1\) \(and 2 more\)"),
        (np.float16([[np.inf, 1]]), True, r"inf at \(0, 0\)"),
        (np.where(CAUSAL < 0, np.nan, -np.inf), False, r"nan at \(0, 1\) \(and 2 more\)"),
    ],
)
def test_what_poisons_sums_is_said_with_its_place(array: Any, is_summed: bool, line: str) -> None:
    assert re.search(line, finite.problem("w", array, is_summed=is_summed))
