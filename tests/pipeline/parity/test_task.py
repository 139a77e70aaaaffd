from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.parity.task import Accepted, TaskResult, compared

ALIKE = [1.0] * 19 + [0.0]


def result(source: list[float], artifact: list[float], **changes: Any) -> TaskResult:
    accepted = {
        "metric": "top-1",
        "output": "y",
        "classes": [],
        "max_drop": 0.01,
        "confidence": 0.95,
    }
    return compared(source, artifact, accepted=Accepted(**accepted | changes), sha256="ab")


def test_enough_samples_that_agree_pass() -> None:
    found = result(ALIKE * 20, ALIKE * 20)
    assert (found.status, found.samples, found.drop) == ("passed", 400, 0)
    assert found.reason == (
        "top-1 is 95 % on 400 labelled samples, the source's 95 %: a drop of 0 % (-0.951 % to"
        " 0.951 % with 95 % confidence), at most 1 % is accepted"
    )


def test_twenty_that_agree_prove_little_and_say_how_many_would_do() -> None:
    found = result(ALIKE, ALIKE)
    assert found.status == "unverified"
    assert found.reason == (
        "top-1: 20 labelled samples cannot tell a drop of -16.1 % from one of 16.1 %, and at most"
        " 1 % is accepted: about 381 would, or accept a max_drop of 0.17"
    )
    assert result(ALIKE * 20, ALIKE * 20).samples > (found.needed or 0)


def test_a_clear_drop_fails() -> None:
    found = result([1.0] * 200, [1.0] * 150 + [0.0] * 50)
    assert (found.status, found.drop) == ("failed", 0.25)
    assert "a drop of 25 %" in found.reason
    assert "keep more of it in float" in found.reason


def test_a_gain_is_no_drop() -> None:
    assert result([0.0] * 200 + [1.0] * 200, [1.0] * 400).status == "passed"


def test_a_larger_drop_can_be_accepted() -> None:
    few = [1.0] * 195 + [0.0] * 5
    assert result([1.0] * 200, few).status == "unverified"
    assert result([1.0] * 200, few, max_drop=0.1).status == "passed"


def test_more_confidence_needs_more() -> None:
    assert result(ALIKE * 20, ALIKE * 20, confidence=0.99).status == "unverified"


@pytest.mark.parametrize(("noise", "status"), [(0.05, "passed"), (1.0, "failed")])
def test_errors_are_in_their_own_unit(noise: float, status: str) -> None:
    random = np.random.default_rng(0)
    source = -random.exponential(1, 300)
    artifact = source - random.exponential(noise, 300)
    found = result(source.tolist(), artifact.tolist(), metric="mean-absolute-error", max_drop=0.1)
    assert (found.status, found.share) == (status, False)
    assert found.method == "paired bootstrap (BCa)"
    assert "%" not in found.reason.replace("95 % confidence", "")


def test_errors_that_agree_to_the_last_bit_are_bounded_by_their_spread() -> None:
    errors = (-np.linspace(0, 2, 40)).tolist()
    found = result(errors, errors, metric="mean-absolute-error", max_drop=0.1)
    assert found.status == "unverified"
    assert found.high == pytest.approx(2 * 3.8415 / 43.8415, abs=1e-3)


def test_errors_that_are_all_the_same_prove_nothing() -> None:
    found = result([0.0] * 500, [0.0] * 500, metric="mean-absolute-error")
    assert (found.status, found.low, found.needed) == ("unverified", None, None)
    assert "tells nothing of others" in found.reason
    assert "a drop of 0, at most 0.01" in found.line


def test_scores_of_a_users_own_are_shares_where_they_look_so() -> None:
    assert result(ALIKE, ALIKE, metric="/somewhere/zoo.py:iou").share
    assert not result([2.0, 3.0], [2.0, 3.0], metric="/somewhere/zoo.py:psnr").share


def test_no_path_is_told() -> None:
    assert result(ALIKE, ALIKE, metric="/somewhere/zoo.py:iou").metric == "zoo.py:iou"


def test_a_result_is_read_back() -> None:
    for found in (result(ALIKE * 20, ALIKE * 20), result([0.0] * 3, [0.0] * 3)):
        told = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert told["status"] == found.status
        again = TaskResult.from_json(told)
        assert again.to_json() == found.to_json()
