from __future__ import annotations

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.io import delivered, given, restored
from crosscast.pipeline.signature import Tensor

REAL = Tensor(name="x", shape=("batch", 2), dtype="float32")
IDS = Tensor(name="ids", shape=("batch",), dtype="int64")
INT8 = Tensor(name="x", shape=("batch", 2), dtype="int8", quantization=(0.5, 3))
HALF = Tensor(name="x", shape=("batch", 2), dtype="float16")


def test_only_floats_are_delivered_in_another_dtype() -> None:
    assert [tensor.dtype for tensor in delivered((REAL, IDS), io="int8", narrowed={})] == [
        "int8",
        "int64",
    ]
    assert delivered((REAL, IDS), io=None, narrowed={}) == (REAL, IDS)


def test_images_are_delivered_as_they_are() -> None:
    pixels = Tensor(name="x", shape=(1, 2, 2, 3), dtype="uint8")
    narrowed = {"uint8": "int32"}
    assert delivered((pixels,), io=None, narrowed=narrowed)[0].dtype == "int32"
    assert delivered((pixels,), io=None, narrowed=narrowed, pixels=["x"]) == (pixels,)


def test_inputs_are_quantized_as_the_artifact_says() -> None:
    x = np.float32([[-100, -1.2], [0.25, 100]])
    fed = given({"x": x, "ids": np.int64([7])}, tensors=(INT8, IDS))
    assert fed["x"].dtype == np.int8
    assert fed["x"].tolist() == [[-128, 1], [3, 127]]
    assert fed["ids"].tolist() == [7]


def test_inputs_become_halves() -> None:
    fed = given({"x": np.float32([[1e9, 0.1]])}, tensors=(HALF,))
    assert fed["x"].tolist() == [[np.inf, np.float16(0.1)]]


def test_an_integer_that_stands_for_nothing_is_refused() -> None:
    silent = Tensor(name="x", shape=(1,), dtype="int8")
    with pytest.raises(StageError, match="input 'x' is int8 without a scale"):
        given({"x": np.float32([1])}, tensors=(silent,))


def test_outputs_come_back_in_the_sources_dtype() -> None:
    back = restored(np.int8([[3, 4]]), tensor=INT8, dtype="float32")
    assert back.dtype == np.float32
    assert back.tolist() == [[0.0, 0.5]]
    assert restored(np.float16([[2]]), tensor=HALF, dtype="float32").dtype == np.float32


@pytest.mark.parametrize("tensor", [REAL, Tensor(name="x", shape=(), dtype="int8")])
def test_what_is_not_as_declared_is_left_for_the_gate_to_refuse(tensor: Tensor) -> None:
    wrong = np.int8([1])
    assert restored(wrong, tensor=tensor, dtype="float32") is wrong


def test_a_format_without_a_dtype_delivers_another() -> None:
    narrowed = {"int64": "int32", "float64": "float32"}
    assert [one.dtype for one in delivered((REAL, IDS), io=None, narrowed=narrowed)] == [
        "float32",
        "int32",
    ]
    double = Tensor(name="d", shape=(), dtype="float64")
    assert delivered((double,), io="float16", narrowed=narrowed)[0].dtype == "float16"


INT32 = Tensor(name="ids", shape=("batch",), dtype="int32")


def test_integers_are_narrowed_and_come_back() -> None:
    fed = given({"ids": np.int64([-(2**31), 2**31 - 1])}, tensors=(INT32,))["ids"]
    assert fed.dtype == np.int32
    assert fed.tolist() == [-(2**31), 2**31 - 1]
    back = restored(fed, tensor=INT32, dtype="int64")
    assert back.dtype == np.int64
    assert back.tolist() == fed.tolist()
    assert given({"ids": np.array([True])}, tensors=(INT32,))["ids"].tolist() == [1]
    assert restored(np.int32([1]), tensor=INT32, dtype="bool").dtype == bool


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_no_integer_wraps(value: int) -> None:
    with pytest.raises(StageError, match=f"'ids' is int32 in the artifact, which has no {value}"):
        given({"ids": np.int64([0, value])}, tensors=(INT32,))


def test_an_integer_that_is_no_boolean_is_not_made_one() -> None:
    two = np.int32([2])
    assert restored(two, tensor=INT32, dtype="bool") is two
