"""How room is judged."""

from __future__ import annotations

import math
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
