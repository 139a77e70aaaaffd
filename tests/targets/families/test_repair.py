"""How what stays in float is told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crosscast.targets.base import ADVICE, KEPT, SAID
from crosscast.targets.families import repair
from crosscast.targets.families.sensitivity import Room

SIZES = {"float": 4_000_000, "int8": 1_000_000, "delivered": 1_250_000}


def told(**given: Any) -> dict[str, Any]:
    rooms = Room([-3.21, 9.0]), Room([2.04, 9.0])
    options: dict[str, Any] = {
        "operators": {},
        "weights": {},
        "total": 9,
        "sizes": SIZES,
        "trials": 7,
    }
    return repair.told(**(options | given), rooms=rooms)


def test_operators_are_named_with_their_costs_and_the_sizes() -> None:
    why = repair.cost(Room([-1.5, 4.0]), "'x'")
    notes = told(operators=dict.fromkeys("abcd", why), biases="corrected")
    assert notes[KEPT] == {
        "biases": "corrected",
        "operators": dict.fromkeys(
            "abcd", "'x' alone in int8: the worst sample is 1.5 dB beyond the limits"
        ),
        "room_db": {"int8": -3.2, "delivered": 2.0},
        "bytes": SIZES,
        "trials": 7,
    }
    assert notes[SAID] == (
        "biases fitted to samples, 4 of 9 operators in float (a, b, c, 1 more): the worst "
        "calibration sample is 2.0 dB within the limits, all in int8 3.2 dB beyond the limits; "
        "1.2 MB so, 1.0 MB all in int8, 4.0 MB in float"
    )
    assert "2.0 dB within the limits" in notes[ADVICE]


def test_weights_are_told_beside_operators() -> None:
    notes = told(operators={"a": "why"}, weights={"w": "why"})
    assert "1 of 9 operators in float (a) and 1 weights in float (w)" in notes[SAID]
    assert notes[KEPT]["weights"] == {"w": "why"}


@pytest.mark.parametrize(
    ("room_db", "text"),
    [
        (0.0, "0.0 dB within the limits"),
        (-0.5, "0.5 dB beyond the limits"),
        (math.inf, "not changed"),
        (-math.inf, "no longer an answer"),
    ],
)
def test_distances_are_told_in_words(room_db: float, text: str) -> None:
    assert repair.distance(room_db) == text
