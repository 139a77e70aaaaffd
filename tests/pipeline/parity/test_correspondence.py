"""Which tensor of a network another one stands for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crosscast.pipeline.parity.correspondence import (
    CLOSE_DB,
    Moments,
    Reference,
    arrangements,
    snr_db,
)

RANDOM = np.random.default_rng(3)


def drawn(*shape: int) -> NDArray[Any]:
    return RANDOM.normal(0.3, 1.0, shape).astype(np.float32)


def noisy(array: NDArray[Any], db: float) -> NDArray[Any]:
    """The array with noise of so many dB below it."""
    noise = RANDOM.normal(0, 1, array.shape)
    power = np.sqrt(np.mean(array.astype(np.float64) ** 2) / np.mean(noise**2))
    return np.asarray(array + noise * power * 10 ** (-db / 20), array.dtype)


def reference(tensors: dict[str, NDArray[Any]], **names: str) -> Reference:
    made = Reference(read=tensors.__getitem__, names={**{name: name for name in tensors}, **names})
    for name, array in tensors.items():
        made.add(name, array)
    return made


@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ((2, 3, 4, 5), lambda x: x),
        ((2, 3, 4, 5), lambda x: x.transpose(0, 2, 3, 1)),
        ((2, 3, 4), lambda x: x.transpose(0, 2, 1)),
        ((1, 3, 4, 5), lambda x: x[0].transpose(1, 2, 0)),
        ((6, 4), lambda x: x.T),
        ((2, 3, 1, 1), lambda x: x.reshape(2, 3)),
        ((2, 3, 4), lambda x: x.reshape(6, 4)),
        ((2, 12), lambda x: x.reshape(2, 3, 4)),
    ],
)
def test_layouts_are_undone(shape: tuple[int, ...], change: Any) -> None:
    array = drawn(*shape)
    found = list(arrangements(change(array), shape))
    assert {one.shape for one in found} == {shape}
    assert any(np.array_equal(one, array) for one in found)


def test_swapped_height_and_width_are_not_undone() -> None:
    """They are a fault, which another order of the axes would hide."""
    array = drawn(1, 3, 5, 5)
    swapped = array.swapaxes(2, 3)
    assert not any(np.array_equal(one, array) for one in arrangements(swapped, array.shape))


def test_snr() -> None:
    array = drawn(1000)
    assert snr_db(array, array) == math.inf
    assert snr_db(array, noisy(array, 20)) == pytest.approx(20, abs=0.1)
    assert snr_db(array, np.zeros_like(array)) == pytest.approx(0)
    assert snr_db(np.zeros_like(array), array) == -math.inf


def test_a_value_that_is_not_finite_is_no_match_unless_the_reference_has_it() -> None:
    array, broken = drawn(10), drawn(10)
    broken[3] = np.nan
    assert snr_db(array, broken) == -math.inf
    assert snr_db(broken, np.where(np.isnan(broken), 0, broken)) == math.inf


def test_moments_never_rule_out_what_is_near() -> None:
    for _ in range(50):
        one, other = drawn(64), drawn(64) * RANDOM.uniform(0, 2)
        difference = float(np.sqrt(np.mean((one.astype(np.float64) - other) ** 2)))
        order = RANDOM.permutation(64)
        assert Moments.of(one).distance(Moments.of(other[order])) <= difference + 1e-6


def test_a_name_counts_where_values_agree() -> None:
    first, second = drawn(2, 30), drawn(2, 30)
    made = reference({"a/b": first, "c": second, "same as c": second})
    found = made.match("same_as_c", noisy(second, 30))
    assert found is not None
    assert (found.name, round(found.snr_db)) == ("same as c", 30)


def test_values_tell_where_names_do_not_and_where_they_are_wrong() -> None:
    tensors = {"a": drawn(2, 3, 4, 5), "b": drawn(2, 3, 4, 5)}
    for called in ("unknown", "a"):
        found = reference(tensors).match(called, noisy(tensors["b"].transpose(0, 2, 3, 1), 25))
        assert found is not None
        assert found.name == "b"
        assert found.array.shape == (2, 3, 4, 5)


def test_a_name_stands_where_values_are_like_nothing() -> None:
    tensors = {"a": drawn(2, 30), "b": drawn(2, 30)}
    found = reference(tensors, node_output="a").match("node_output", drawn(2, 30))
    assert found is not None
    assert (found.name, found.snr_db < CLOSE_DB) == ("a", True)


def test_what_is_a_network_s_tensor_already_is_not_found_by_value_again() -> None:
    """A block whose branch is lost gives what it is given."""
    tensors = {"shortcut": drawn(2, 30), "sum": drawn(2, 30)}
    made = reference(tensors)
    assert made.match("shortcut", tensors["shortcut"]) is not None
    found = made.match("sum", tensors["shortcut"])
    assert found is not None
    assert found.name == "sum"


@pytest.mark.parametrize("array", [drawn(2, 30), drawn(2, 31), np.float32([1, 2, 3])])
def test_nothing_corresponds(array: NDArray[Any]) -> None:
    tensors = {"a": drawn(2, 30), "few": np.float32([1, 2, 3])}
    assert reference(tensors).match("unknown", array) is None
