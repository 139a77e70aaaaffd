from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.given import npz_samples, real_case
from crosscast.pipeline.signature import Signature, Tensor

IMAGES = Signature(
    inputs=(Tensor(name="image", shape=("batch", 3, 4, 5), dtype="float32", range=(-1.0, 1.0)),),
    dims={"batch": (1, 4)},
)
TEXT = Signature(
    inputs=(
        Tensor(name="ids", shape=("batch", "length"), dtype="int32", range=(0, 99)),
        Tensor(name="mask", shape=("batch", "length"), dtype="bool"),
    ),
    dims={"batch": (1, 4), "length": (2, 8)},
)


def image(*shape: int, dtype: str = "float32", value: float = 0.5) -> np.ndarray[Any, Any]:
    return np.full(shape or (1, 3, 4, 5), value, dtype)


def text(rows: int = 1, length: int = 3) -> dict[str, Any]:
    return {"ids": np.ones((rows, length), np.int64), "mask": np.ones((rows, length), np.bool_)}


def refused(sample: Any, signature: Signature = IMAGES) -> str:
    with pytest.raises(StageError) as caught:
        real_case(sample, signature=signature, index=3)
    assert caught.value.fix
    return str(caught.value)


def test_a_good_sample_becomes_a_case() -> None:
    case = real_case({"image": image(2, 3, 4, 5)}, signature=IMAGES, index=3)
    assert (case.name, case.origin, case.dims) == ("real 3", "real", {"batch": 2})


def test_a_bare_array_is_taken_where_there_is_one_input() -> None:
    assert "image" in real_case(image(), signature=IMAGES, index=0).arrays
    assert "ndarray where a dict of arrays was expected" in refused(image(), TEXT)


def test_casts_within_a_kind_are_made() -> None:
    case = real_case({"image": image(dtype="float64")}, signature=IMAGES, index=0)
    assert case.arrays["image"].dtype == "float32"
    case = real_case(text(), signature=TEXT, index=0)
    assert case.arrays["ids"].dtype == "int32"
    case = real_case({"image": image().tolist()}, signature=IMAGES, index=0)
    assert case.arrays["image"].dtype == "float32"


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"imag": image()}, "sample 3: 'imag' is no input of the model; did you mean 'image'?"),
        ({}, "sample 3: input 'image' is missing"),
        ({"image": image(), "zzz": 1}, "sample 3: 'zzz' is no input of the model"),
        ({"image": image(dtype="uint8", value=0)}, "has dtype uint8, expected float32"),
        ({"image": image(dtype="int64", value=0)}, "has dtype int64, expected float32"),
        ({"image": image(3, 4, 5)}, "add the batch dimension, as in array[None]"),
        ({"image": image(1, 3, 4, 6)}, "shape (1, 3, 4, 6), expected (batch, 3, 4, 5)"),
        ({"image": image(1, 4, 5, 3)}, "array.transpose(0, 3, 1, 2) would fit"),
        ({"image": image(5, 3, 4, 5)}, "dimension 'batch' is 5, declared 1 to 4"),
        ({"image": image(0, 3, 4, 5)}, "dimension 'batch' is 0, declared 1 to 4"),
        ({"image": image(value=float("nan"))}, "is nan at (0, 0, 0, 0)"),
        ({"image": image(value=float("-inf"))}, "is -inf at (0, 0, 0, 0)"),
        ({"image": image(dtype="float64", value=1e300)}, "is inf as float32 at (0, 0, 0, 0)"),
        ({"image": image(value=1.1)}, "values from 1.1 to 1.1, declared -1 to 1"),
        ({"image": [[1.0], [1.0, 2.0]]}, "is not an array"),
        ({"image": None}, "has dtype object"),
        ({"image": "photo.jpg"}, "has dtype <U9"),
    ],
)
def test_a_bad_sample_is_named(sample: Any, expected: str) -> None:
    message = refused(sample)
    assert message.startswith("sample 3: ")
    assert expected in message


def test_integers_must_fit_and_keep_the_declared_range() -> None:
    sample = text()
    sample["ids"] = np.full((1, 3), 2**40)
    assert "do not fit int32" in refused(sample, TEXT)
    sample["ids"] = np.full((1, 3), 100)
    assert "values from 100 to 100, declared 0 to 99" in refused(sample, TEXT)
    sample["ids"] = np.full((1, 3), 1.0)
    assert "has dtype float64, expected int32" in refused(sample, TEXT)


def test_a_dimension_has_one_size_in_all_inputs() -> None:
    sample = text()
    sample["mask"] = np.ones((1, 4), np.bool_)
    assert "dimension 'length' is 4, but 3 in another input" in refused(sample, TEXT)


def test_rounding_may_step_over_the_range_by_a_hair() -> None:
    real_case({"image": image(value=1.000001)}, signature=IMAGES, index=0)


def test_npz_rows_become_batches_of_one() -> None:
    samples = list(npz_samples({"image": image(6, 3, 4, 5)}, signature=IMAGES))
    assert [sample["image"].shape for sample in samples] == [(1, 3, 4, 5)] * 6


def test_npz_may_hold_whole_inputs() -> None:
    samples = list(npz_samples({"image": image(6, 2, 3, 4, 5)}, signature=IMAGES))
    assert [sample["image"].shape for sample in samples] == [(2, 3, 4, 5)] * 6
    fixed = Signature(inputs=(Tensor(name="x", shape=(7,), dtype="float32"),))
    assert len(list(npz_samples({"x": image(5, 7)}, signature=fixed))) == 5


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"ids": image(2, 3), "mask": image(3, 3)}, "different numbers of samples"),
        ({"ids": image(2, 3), "musk": image(2, 3)}, "did you mean 'mask'?"),
        ({"ids": image(2), "mask": image(2)}, "input 'ids' has shape (2)"),
    ],
)
def test_a_bad_npz_is_named(arrays: dict[str, Any], expected: str) -> None:
    with pytest.raises(StageError) as caught:
        list(npz_samples(arrays, signature=TEXT))
    assert expected in str(caught.value)


def test_an_npz_of_rows_needs_a_batch_like_first_dimension() -> None:
    fixed = Signature(inputs=(Tensor(name="x", shape=(7,), dtype="float32"),))
    with pytest.raises(StageError, match="first axis counts samples"):
        list(npz_samples({"x": image(7)}, signature=fixed))
