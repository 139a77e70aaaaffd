from __future__ import annotations

import pytest

from crosscast.pipeline.errors import CrosscastError
from crosscast.pipeline.graph import Output, Step, ordered
from crosscast.pipeline.toolchain import CORE


def step(name: str, *needs: str) -> Step:
    return Step(
        id=name,
        stage="convert",
        module="m",
        toolchain=CORE,
        inputs={need: Output(need) for need in needs},
    )


def order(*steps: Step) -> list[str]:
    return [entry.id for entry in ordered({entry.id: entry for entry in steps})]


def test_steps_come_after_what_they_need() -> None:
    assert order(step("c", "b", "a"), step("a"), step("b", "a")) == ["a", "b", "c"]


def test_independent_steps_keep_their_order() -> None:
    assert order(step("z"), step("y"), step("x", "z")) == ["z", "y", "x"]


def test_a_cycle_is_named() -> None:
    with pytest.raises(CrosscastError, match="in a circle: a -> b -> a"):
        order(step("a", "b"), step("b", "a"))


def test_a_missing_step_is_named() -> None:
    with pytest.raises(CrosscastError, match="step 'a' needs 'nowhere', which is not planned"):
        order(step("a", "nowhere"))
