"""What a TensorFlow model tells, brought together with what the config declares. No framework."""

from __future__ import annotations

from typing import Any

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.tf_model import (
    Loaded,
    by_position_or_name,
    completed,
    distinct,
    told,
)

IMAGE = told("image", (None, None, 8, 3), "float32")
TOKENS = told("tokens", (None, 5), "int32")


def model(*inputs: Tensor) -> Loaded:
    return Loaded(call=lambda names, tensors: None, inputs=inputs or None)


def declared(*inputs: Tensor, **dims: tuple[int, int]) -> Signature:
    return Signature(inputs=inputs, dims=dims)


def test_unknown_sizes_get_names_and_ranges() -> None:
    signature = completed(model(IMAGE, TOKENS), declared())
    assert [tensor.shape for tensor in signature.inputs] == [
        ("batch", "image_dim1", 8, 3),
        ("batch", 5),
    ]
    assert [tensor.layout for tensor in signature.inputs] == ["nhwc", None]
    assert signature.dims == {"batch": (1, 4), "image_dim1": (1, 64)}


def test_the_config_narrows_and_renames() -> None:
    mine = Tensor(name="photo", shape=("n", 8, 8, 3), dtype="float32", range=(0, 1))
    signature = completed(model(IMAGE), declared(mine, n=(2, 3)))
    assert signature.inputs == (mine,)
    assert signature.dims == {"n": (2, 3)}


def test_known_names_may_come_in_any_order_and_in_part() -> None:
    mine = Tensor(name="tokens", shape=(1, 5), dtype="int32")
    signature = completed(model(IMAGE, TOKENS), declared(mine))
    assert [tensor.name for tensor in signature.inputs] == ["image", "tokens"]
    assert signature.inputs[1] == mine


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (Tensor(name="tokens", shape=("n", 5), dtype="int64"), "int64 .*the model has int32"),
        (Tensor(name="tokens", shape=("n", 6), dtype="int32"), r"\[n, 6\], the model has"),
        (Tensor(name="tokens", shape=("n", "m"), dtype="int32"), r"\[n, m\], the model has"),
    ],
)
def test_a_conflict_is_told(mine: Tensor, said: str) -> None:
    with pytest.raises(StageError, match=said):
        completed(model(TOKENS), declared(mine))


def test_unknown_names_are_told_with_the_models_own() -> None:
    mine = Tensor(name="token", shape=(1, 5), dtype="int32")
    with pytest.raises(StageError, match="no input 'token'; it has 'image', 'tokens'"):
        completed(model(IMAGE, TOKENS), declared(mine))


def test_what_no_artifact_takes_is_refused() -> None:
    with pytest.raises(StageError, match="'text' is of strings"):
        completed(model(told("text", (None,), "string")), declared())
    with pytest.raises(StageError, match="does not tell the shape of its input 'x'"):
        told("x", None, "float32")
    with pytest.raises(StageError, match="does not tell its inputs"):
        completed(model(), declared())


def test_outputs_get_names_of_their_own() -> None:
    assert distinct(["y", "y", "x", "x"], taken=["x"]) == ("y", "y_1", "x_out", "x_2")


def test_how_a_function_is_called() -> None:
    def by_name(a: Any, *, b: Any, training: bool = False) -> Any:
        return a, b

    def by_place(first: Any, second: Any) -> Any:
        return first, second

    def whole(inputs: Any) -> Any:
        return inputs["a"], inputs["b"]

    def listed(inputs: Any) -> Any:
        first, second = inputs
        return first + 0, second + 0

    for function in (by_name, by_place, whole):
        call = by_position_or_name(function, hidden=("training",))
        assert call(["a", "b"], [1, 2]) == (1, 2)
    assert by_position_or_name(listed)(["a", "b"], [1, 2]) == (1, 2)
