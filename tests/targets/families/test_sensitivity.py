"""How room is judged, and how what stays in float is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.parity.metrics import Extent
from crosscast.targets.families import sensitivity
from crosscast.targets.families.sensitivity import Room, Squash, Standard, room_db


def room(reference: Any, given: Any, squash: Squash = "") -> float:
    one, other = np.float32(reference), np.float32(given)
    limits = sensitivity.limits_of({})
    return room_db(one, other, typical=Extent.of(one), limits=limits, squash=squash)


def test_room_is_counted_from_the_gates_limits() -> None:
    wave = np.sin(np.arange(1000))
    assert room(wave, wave) == math.inf
    assert room(wave, wave * 1.1) == pytest.approx(3.0, abs=0.1)  # 20 dB where 17 are asked for
    assert room(wave, wave[:-1]) == -math.inf
    assert room(wave, np.where(np.arange(1000) == 3, np.nan, wave)) == -math.inf
    spiked = wave.copy()
    spiked[0] += 0.8  # a fifth of the span is the limit
    assert room(wave, spiked) == pytest.approx(-6.0, abs=0.1)


def test_a_sure_answer_hides_nothing() -> None:
    """An error of .4 in the difference of two classes moves an undecided answer by a tenth."""
    sure, shaken = [[12.0, -12.0]], [[12.2, -12.2]]
    assert room([[1.0, 0.0]], [[1.0, 0.0]]) == math.inf
    assert room(sure, shaken, "softmax") == pytest.approx(20 * math.log10(5) - 17, abs=0.1)
    assert room(sure, [[12.5, -11.5]], "softmax") == math.inf  # a shift of all is none
    assert room([30.0, 0.0], [25.0, 0.0], "sigmoid") == math.inf  # sure either way
    assert room([30.0, 0.0], [30.0, 2.0], "sigmoid") < 0


def test_the_worst_answer_of_a_sample_counts() -> None:
    rows = np.zeros((100, 2))
    shaken = rows.copy()
    shaken[7] = [1.0, -1.0]
    assert room(rows, shaken, "softmax") < 0


def test_levels_ask_more_of_the_typical_sample() -> None:
    assert Room([1.0, 4.0, 9.0]).level == 0.0
    assert Room([1.0, 2.0, 9.0]).level == -math.inf
    assert Room([-1.0, 30.0, 30.0]).level == -math.inf
    assert Room([6.5, 9.5, 9.5]).level == 6.0
    assert Room([4.0, -2.0, 9.0]).hardest() == [0, 1]
    assert Room([0.0, 0.0]).cost == 2 * Room([0.0]).cost
    assert Room([math.inf]).cost < Room([90.0]).cost


def test_parts_are_neighbours_and_few() -> None:
    assert sensitivity.parts(["a", "b"]) == [("a",), ("b",)]
    names = [str(number) for number in range(1000)]
    found = sensitivity.parts(names)
    assert len(found) <= sensitivity.PARTS
    assert [name for part in found for name in part] == names
    assert sensitivity.parts([]) == []


@pytest.mark.parametrize("needed", [1, 2, 7, 20, 40])
def test_the_fewest_are_found_by_few_trials(needed: int) -> None:
    tried: list[int] = []

    def works(size: int) -> bool:
        tried.append(size)
        return size >= needed

    assert sensitivity.fewest(40, works) == needed
    assert len(tried) <= 7
    assert sensitivity.fewest(needed - 1, works) is None


def chosen(
    names: list[str], costs: dict[str, float], needed: dict[float, set[str]]
) -> tuple[list[str], int]:
    """What is chosen where each level needs some names in float, and how often that was tried.

    costs: of each name in int8 alone; what is more costs more room.
    """
    tried: list[frozenset[str]] = []

    def room(some: frozenset[str]) -> Room:
        tried.append(some)
        reached = [level for level, wanted in needed.items() if wanted <= some]
        return Room([max(reached, default=-9.0), 99.0, 99.0])

    def measured(parts: Sequence[tuple[str, ...]]) -> list[Room]:
        return [Room([-sum(costs.get(name, 0.0) for name in part)]) for part in parts]

    found = sensitivity.least(names, level=max(needed), measured=measured, room=room)
    return list(found), len(set(tried))


def test_the_fewest_stay_in_float() -> None:
    names = list("abcdefgh")
    costs = {"c": 9.0, "f": 5.0}
    assert chosen(names, costs, {6.0: {"c"}})[0] == ["c"]
    assert chosen(names, costs, {6.0: {"c", "f"}})[0] == ["c", "f"]


def test_what_others_do_without_is_left_out_again() -> None:
    """The ranking takes each alone: here `c` costs most, but is mended by `f`."""
    assert chosen(list("abcdefgh"), {"c": 9.0, "f": 5.0}, {0.0: {"f"}})[0] == ["f"]


def test_groups_are_taken_apart() -> None:
    names = [f"n{number}" for number in range(1000)]
    costs = {"n100": 30.0, "n777": 20.0}
    found, trials = chosen(names, costs, {0.0: {"n100", "n777"}})
    assert found == ["n100", "n777"]
    assert trials < 30


def test_less_room_is_aimed_at_where_more_needs_more_than_half() -> None:
    names, costs = list("abcdefgh"), {name: 9.0 - at for at, name in enumerate("abcdefgh")}
    assert chosen(names, costs, {6.0: set("abcde"), 0.0: {"a"}})[0] == ["a"]


def test_where_most_is_needed_all_stays_in_float() -> None:
    names = list("abcdefgh")
    assert set(chosen(names, {}, {0.0: set("abcde")})[0]) == set(names)
    assert set(chosen(names, {}, {0.0: {"none of these"}})[0]) == set(names)


def test_the_costliest_come_first_and_equal_ones_in_order() -> None:
    rooms = {("a",): Room([3.0]), ("b",): Room([-5.0]), ("c",): Room([3.0])}
    assert sensitivity.ranked(rooms) == [("b",), ("a",), ("c",)]


def test_a_targets_own_limits_are_aimed_at() -> None:
    wave = np.float32(np.sin(np.arange(1000)))
    for asked, left in ((17.0, 3.0), (25.0, -5.0)):
        limits = sensitivity.limits_of({"min_snr_db": asked, "reason": "a test"})
        standard = Standard([[wave]], [""], limits)
        assert standard.room_db(0, [wave * np.float32(1.1)]) == pytest.approx(left, abs=0.1)


def test_samples_are_spread_and_halved() -> None:
    assert sensitivity.spread(3) == [0, 1, 2]
    assert len(sensitivity.spread(1000)) == sensitivity.SAMPLES
    assert list(sensitivity.half(range(5))) == [0, 2, 4]
    assert list(sensitivity.half(range(1))) == [0]


def test_answers_are_held_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "TOGETHER", 10)
    answers = [[np.zeros(2, np.float32)] for _ in range(9)]
    assert len(sensitivity.held(answers)) == 2
    standard = Standard(answers[:2], [""])
    assert standard.room_db(0, answers[0]) == math.inf
