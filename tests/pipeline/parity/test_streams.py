"""Streams: whose state goes where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case, batch_dim
from crosscast.pipeline.parity.streams import (
    STREAM_STEPS,
    require_fed,
    resumed,
    states,
    streamed,
)
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.signature import Signature, Tensor

SIGNATURE = Signature(
    inputs=(
        Tensor(name="x", shape=("batch", 3), dtype="float32", range=(-2, 2)),
        Tensor(name="h", shape=(2, "batch", 4), dtype="float32", range=(-1, 1), fed_by="hn"),
    ),
    dims={"batch": (1, 3)},
)
OWN = {"h": "hn"}


def sample(value: float, batch: int = 1) -> Case:
    arrays = {
        "x": np.full((batch, 3), value, np.float32),
        "h": np.full((2, batch, 4), value / 10, np.float32),
    }
    return Case(name=f"real {value}", origin="real", arrays=arrays, dims={"batch": batch})


def test_states_are_inputs_that_an_output_feeds() -> None:
    assert states(SIGNATURE) == OWN
    assert batch_dim(SIGNATURE) is None


def test_a_stream_takes_the_real_inputs_in_turn_and_the_first_state() -> None:
    cases = list(streamed([sample(1), sample(2, batch=3), sample(3)], signature=SIGNATURE))
    assert len(cases) == STREAM_STEPS
    assert [case.arrays["x"][0, 0] for case in cases] == [1, 3] * (STREAM_STEPS // 2)
    assert all(case.dims == {"batch": 1} and case.origin == "streamed" for case in cases)
    np.testing.assert_array_equal(cases[0].arrays["h"], sample(1).arrays["h"])
    assert all("h" not in case.arrays for case in cases[1:])
    names = [case.name for case in cases]
    assert [case.follows for case in cases] == ["", *names[:-1]]


def test_without_samples_a_stream_is_drawn_and_starts_with_zeros() -> None:
    first, *rest = streamed([], signature=SIGNATURE)
    assert not first.arrays["h"].any()
    assert first.arrays["h"].shape == (2, first.dims["batch"], 4)
    drawn = {case.arrays["x"].tobytes() for case in (first, *rest)}
    assert len(drawn) == STREAM_STEPS
    assert {case.arrays["x"].shape for case in (first, *rest)} == {first.arrays["x"].shape}


def test_models_without_a_state_have_no_stream() -> None:
    bare = Signature(inputs=SIGNATURE.inputs[:1], dims=SIGNATURE.dims)
    assert not list(streamed([sample(1)], signature=bare))


def test_streams_come_before_adversarial_rows() -> None:
    origins = [case.origin for case in parity_cases([sample(1)], signature=SIGNATURE)]
    assert origins[-8 - 6 : -6] == ["streamed"] * 8
    assert set(origins[-6:]) == {"adversarial"}


def test_a_case_goes_on_with_what_the_one_before_left() -> None:
    case = Case(name="b", origin="streamed", arrays={"x": np.zeros(1)}, follows="a")
    left = {"hn": np.ones(2), "y": np.ones(3)}
    assert list(resumed(case, {"a": left}, own=OWN).arrays) == ["x", "h"]
    assert resumed(case, {"a": left}, own=OWN).arrays["h"] is left["hn"]
    assert resumed(case, {"other": left}, own=OWN) is case


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (
            {"hm": np.zeros((2, 1, 4), "f4")},
            "which is no output of the source; did you mean 'hm'?",
        ),
        (
            {"hn": np.zeros((1, 2, 4), "f4")},
            "input 'h' is float32 [2, 1, 4] in case 'real 1' and cannot be fed by output 'hn', "
            "which is float32 [1, 2, 4]",
        ),
        ({"hn": np.zeros((2, 1, 4), "f8")}, "which is float64 [2, 1, 4]"),
    ],
)
def test_what_cannot_feed_is_named(outputs: dict[str, Any], said: str) -> None:
    with pytest.raises(StageError) as caught:
        require_fed(sample(1), outputs, own=OWN)
    assert said in caught.value.message


def test_what_feeds_is_no_error() -> None:
    require_fed(sample(1), {"hn": np.zeros((2, 1, 4), "f4")}, own=OWN)
