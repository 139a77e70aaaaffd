"""What names and shapes of inputs are taken to mean."""

from __future__ import annotations

import pytest

from crosscast.pipeline.init import names
from crosscast.pipeline.signature import Tensor


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "expected"),
    [
        ("attention_mask", "int64", ("batch", "t"), (0, 1)),
        ("flag", "bool", (), None),
        ("text", "string", ("batch",), None),
        ("pixels", "uint8", ("batch", 8, 8, 3), (0, 255)),
        ("timestep", "int64", ("batch",), (0, 999)),
        ("ids", "int64", ("batch", "t"), (0, 1)),
        ("x", "float32", ("batch", 3, 8, 8), (0, 1)),
        ("x", "float32", ("batch", 8, 8, 1), (0, 1)),
        ("h0", "float32", (2, "batch", 8), (-1, 1)),
        ("x", "float32", ("batch", 9), (-1, 1)),
    ],
)
def test_ranges(
    name: str, dtype: str, shape: tuple[int | str, ...], expected: tuple[float, float] | None
) -> None:
    bounds, why = names.range_of(name, dtype, shape)
    assert bounds == expected
    assert bool(why) == (expected is not None)


@pytest.mark.parametrize(
    ("name", "axis", "shape", "dtype", "expected"),
    [
        ("batch_size", 0, ("batch_size", 3), "float32", "batch_size"),
        ("", 0, ("", 3), "float32", "batch"),
        ("unk__12", 0, ("unk__12", 3), "float32", "batch"),
        ("p2o.DynamicDimension.1", 2, ("n", 3, "p", "q"), "float32", "height"),
        ("", 2, ("", 3, "", ""), "uint8", "height"),
        ("ids_dim1", 1, ("batch", "ids_dim1"), "int64", "sequence"),
        ("past len+1", 1, ("batch", "past len+1"), "int64", "past_len_1"),
        ("3x", 1, ("batch", "3x"), "int64", "_3x"),
        ("range", 1, ("batch", "range"), "int64", "range_"),
    ],
)
def test_dimensions(
    name: str, axis: int, shape: tuple[int | str, ...], dtype: str, expected: str
) -> None:
    found = names.dimension(name, axis=axis, shape=shape, dtype=dtype, layout="nchw")
    assert found == expected


def test_places_of_an_image_go_by_its_layout() -> None:
    shape = ("", "", "", 3)
    found = [
        names.dimension("", axis=axis, shape=shape, dtype="float32", layout="nhwc")
        for axis in range(3)
    ]
    assert found == ["batch", "height", "width"]


@pytest.mark.parametrize(
    ("name", "axis", "shape", "dtype", "first"),
    [
        ("batch", 0, ("batch", 3), "float32", (1, 4)),
        ("N", 1, (2, "N", 8), "float32", (1, 4)),
        ("height", 2, ("batch", 3, "height", 8), "float32", (32, 96)),
        ("t", 1, ("batch", "t"), "int64", (1, 64)),
        ("t", 1, ("batch", "t"), "float32", (8000, 32000)),
        ("t", 1, ("batch", "t", 80), "float32", (1, 64)),
    ],
)
def test_sizes(
    name: str, axis: int, shape: tuple[int | str, ...], dtype: str, first: tuple[int, int]
) -> None:
    found = names.sizes_of(name, axis=axis, shape=shape, dtype=dtype, owner="x")
    assert found[0] == first
    assert any(isinstance(size, int) for size in found)


def test_channels_in_another_place_than_the_frameworks() -> None:
    assert names.layout_of(("batch", 8, 8, 3), "nchw") == "nhwc"
    assert names.layout_of((1, 3, 8, 8), "nhwc") == "nchw"
    assert names.layout_of((1, 3, 8, 8), "nchw") is None
    assert names.layout_of((1, 3, 8, 3), "nchw") is None
    assert names.layout_of((1, 3), "nchw") is None


def tensor(name: str, shape: tuple[int | str, ...] = (2, "batch", 8)) -> Tensor:
    return Tensor(name=name, shape=shape, dtype="float32")


@pytest.mark.parametrize(
    ("state", "output"),
    [
        ("state", "stateN"),
        ("h", "hn"),
        ("h0", "hn"),
        ("h_0", "h_n"),
        ("c_in", "c_out"),
        ("hidden", "hidden_out"),
        ("prev_state", "next_state"),
        ("past_key_values.0.key", "present.0.key"),
        ("cache", "cache"),
    ],
)
def test_states_are_fed_by_what_is_called_like_them(state: str, output: str) -> None:
    others = [tensor("y"), tensor("output"), tensor("other_n")]
    assert names.fed_by(tensor(state), [*others, tensor(output)]) == output


@pytest.mark.parametrize(
    ("state", "outputs"),
    [
        (tensor("x"), [tensor("xn")]),
        (tensor("state"), [tensor("stateN", (1, "batch", 8))]),
        (tensor("state"), [Tensor(name="stateN", shape=(2, "batch", 8), dtype="float16")]),
        (tensor("state"), [tensor("stateN"), tensor("state_out")]),
        (tensor("state"), [tensor("1"), tensor("hidden")]),
        (tensor("past_key", ("b", "past")), [tensor("present_key", ("b", "total"))]),
    ],
    ids=["no state", "shape", "dtype", "two", "other names", "growing"],
)
def test_where_it_is_not_certain_nothing_is_said(state: Tensor, outputs: list[Tensor]) -> None:
    assert names.fed_by(state, outputs) == ""
