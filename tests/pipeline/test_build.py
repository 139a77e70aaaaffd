from __future__ import annotations

from typing import Any

import pytest

from crosscast.pipeline.build import verdict_code, with_task


def again(status: str, built: str) -> dict[str, Any]:
    verdict = {"status": status, "reason": "6 real"}
    return with_task(verdict, {"metric": "top-1", "status": built, "samples": 20})


@pytest.mark.parametrize(
    ("status", "built", "expected"),
    [
        ("passed", "passed", "passed"),
        ("passed", "unverified", "unverified"),
        ("failed", "passed", "failed"),
        ("unverified", "passed", "unverified"),
    ],
)
def test_vectors_prove_no_task(status: str, built: str, expected: str) -> None:
    found = again(status, built)
    assert found["status"] == expected
    assert verdict_code(found) == (0 if expected == "passed" else 4)
    assert f"not measured again, was '{built}' when it was built" in found["reason"]
    assert found["task_when_built"]["samples"] == 20


def test_without_a_task_nothing_is_said_of_one() -> None:
    verdict = {"status": "passed", "reason": "6 real"}
    assert with_task(verdict, None) == verdict
