"""Sizes are tried until the model takes them."""

from __future__ import annotations

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.init.facts import Input, Size
from crosscast.pipeline.init.settle import bound, settled

X = Input(name="x", shape=("batch", 3, "height", "width"), dtype="float32")
SIZES: dict[str, tuple[Size, ...]] = {
    "batch": ((1, 4), 1),
    "height": ((32, 96), 224, 48),
    "width": ((32, 96), 224, 48),
}


def test_what_is_most_wanted_comes_first() -> None:
    found, dims = settled([X], SIZES, lambda *_: None)
    assert found == (X,)
    assert dims == {"batch": (1, 4), "height": (32, 96), "width": (32, 96)}


def test_a_fixed_size_takes_its_dimensions_place() -> None:
    tried = []

    def works(inputs: tuple[Input, ...], dims: dict[str, tuple[int, int]]) -> None:
        tried.append(inputs[0].shape)
        if inputs[0].shape[2] != 48:
            raise StageError("only 48 rows")

    found, dims = settled([X], SIZES, works)
    assert found[0].shape == ("batch", 3, 48, "width")
    assert dims == {"batch": (1, 4), "width": (32, 96)}
    assert len(tried) == len(set(tried))


def test_the_first_reason_is_told_where_nothing_works() -> None:
    reasons = iter(range(100))

    def works(*_: object) -> None:
        raise StageError(f"reason {next(reasons)}")

    with pytest.raises(StageError, match="reason 0"):
        settled([X], SIZES, works)


def test_an_input_without_dynamic_dimensions_is_tried_once() -> None:
    one = Input(name="x", shape=(1, 2), dtype="float32")
    assert settled([one], {}, lambda *_: None) == ((one,), {})
    assert bound([one], {}) == ((one,), {})
