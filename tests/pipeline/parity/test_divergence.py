"""The layer that an error comes from, found in a small network of numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crosscast.pipeline.parity.divergence import SAME, Comparison, Made
from crosscast.pipeline.parity.explanation import Explanation

RANDOM = np.random.default_rng(5)
SIZE = 24
WEIGHTS = {
    name: RANDOM.normal(0, SIZE**-0.5, (SIZE, SIZE)) for name in ("one", "two", "three", "four")
}
IMAGE = RANDOM.normal(0, 1, (4, SIZE))

Change = Callable[[NDArray[Any]], NDArray[Any]]


def layer(name: str) -> Callable[..., NDArray[Any]]:
    return lambda x: np.asarray(x @ WEIGHTS[name])


OPERATORS: dict[str, tuple[str, tuple[str, ...], Callable[..., NDArray[Any]]]] = {
    "a": ("MatMul", ("x",), layer("one")),
    "b": ("Relu", ("a",), lambda a: np.maximum(a, 0)),
    "c": ("MatMul", ("b",), layer("two")),
    "d": ("Add", ("b", "c"), lambda b, c: b + c),
    "e": ("MatMul", ("d",), layer("three")),
    "f": ("Tanh", ("e",), np.tanh),
    "y": ("MatMul", ("f",), layer("four")),
}


class Net:
    """The network in numpy: each operator is a node that is called as its value is, with `/n`."""

    def __init__(self) -> None:
        self.inputs = ["x"]
        self.outputs = ["y"]
        self.made: Mapping[str, Made] = {
            name: Made(
                name=name,
                node=f"{name}/n",
                operator=operator,
                reads=reads,
                weights=SIZE * SIZE if operator == "MatMul" else 0,
            )
            for name, (operator, reads, _) in OPERATORS.items()
        }

    def values(self, under: dict[str, Any] | None = None) -> dict[str, Any]:
        return dict(under or {})

    def run(self, values: Any, *, given: Any = None) -> Iterator[tuple[str, Any]]:
        for name, (_, reads, compute) in OPERATORS.items():
            made = np.asarray(compute(*(values[one] for one in reads)), np.float32)
            values[name] = given[name] if given and name in given else made
            yield name, made

    def disturbed(self, values: Any, places: Sequence[str]) -> Callable[[Any], Any]:
        def outputs(errors: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            assert set(errors) <= set(places)
            found = {"x": values["x"] + errors.get("x", 0)}
            for name, (_, reads, compute) in OPERATORS.items():
                found[name] = compute(*(found[one] for one in reads)) + errors.get(name, 0)
            return {"y": np.asarray(found["y"], np.float32)}

        return outputs


def explained(
    changes: Mapping[str, Change] | None = None,
    *,
    every: Change = lambda x: x,
    shown: str = "abcdefy",
    calls: Callable[[str], str] = lambda name: name,
    line: Callable[[Made], str] = lambda made: "",
) -> Explanation:
    """The explanation of an artifact: the network with some values changed as they are computed,
    which shows some of them.
    """
    comparison = Comparison(network=Net(), line=line)
    comparison.measure({"x": IMAGE.astype(np.float32)})
    values: dict[str, Any] = {"x": IMAGE.astype(np.float32)}
    for name, (operator, reads, compute) in OPERATORS.items():
        made = every(np.asarray(compute(*(values[one] for one in reads)), np.float32))
        values[name] = (changes or {}).get(name, lambda x: x)(made)
        if name in shown:
            comparison.see(calls(name), values[name], f"{operator.upper()} '{name}'")
    return comparison.explained("worst")


def int8(array: NDArray[Any]) -> NDArray[Any]:
    step = np.abs(array).max() / 127 or 1.0
    return np.asarray(np.round(array / step) * step, array.dtype)


def swapped(array: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(array[:, ::-1])


def poisoned(array: NDArray[Any]) -> NDArray[Any]:
    array = array.copy()
    array[1, 2] = np.nan
    return array


FAULTS: dict[str, Change] = {
    "zeros": np.zeros_like,
    "swapped": swapped,
    "a wrong scale": lambda x: x * np.float32(1.7),
    "one channel lost": lambda x: x * (np.arange(SIZE) != 3).astype(np.float32),
    "not a number": poisoned,
}


@pytest.mark.parametrize("every", [lambda x: x, int8], ids=["exact", "int8"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", "abcdefy")
def test_the_layer_with_the_fault_is_named(place: str, fault: str, every: Change) -> None:
    found = explained({place: FAULTS[fault]}, every=every).culprit
    assert found is not None
    assert found.name == place
    assert found.is_finite == (fault != "not a number")


def test_names_are_not_needed_before_the_fault_nor_for_the_outputs() -> None:
    """Behind it no value is like one of the network's, but the outputs have its names."""
    found = explained({"e": swapped}, calls=lambda name: name if name == "y" else f"v{name}")
    assert found.culprit is not None
    assert [node.name for node in found.culprit.nodes] == ["e/n", "f/n", "y/n"]
    assert "or Tanh 'f/n', MatMul 'y/n'" in found.lines()[0]


@pytest.mark.parametrize(
    "calls",
    [lambda name: f"{name}/n", lambda name: f"{name}/n_output", lambda name: f"{name}_n"],
    ids=["node", "output", "plain"],
)
def test_names_of_operators_stand_for_what_they_give(calls: Callable[[str], str]) -> None:
    """No value behind the fault is like one of the network's, nor is the one that errs."""
    found = explained({"c": swapped}, calls=calls).culprit
    assert found is not None
    assert (found.name, [node.name for node in found.nodes]) == ("c", ["c/n"])


def test_what_the_artifact_fuses_is_named_by_its_weights() -> None:
    found = explained({"e": np.zeros_like}, shown="bdfy").culprit
    assert found is not None
    assert found.layer is not None
    assert (found.name, found.layer.name) == ("f", "e/n")


def test_a_fault_s_growth_is_told() -> None:
    told = explained({"c": lambda x: x * np.float32(1.1)}, every=int8)
    assert told.culprit is not None
    assert told.culprit.before_db > 30
    assert told.culprit.own_db == pytest.approx(20, abs=1)
    assert told.culprit.alone_db is not None
    assert told.outputs_db is not None
    assert told.culprit.alone_db == pytest.approx(told.outputs_db, abs=3)
    assert told.lines()[0] == "the error comes from layer MatMul 'c/n': tensor 'c' (4x24)"


def test_an_error_without_effect_is_not_blamed() -> None:
    """Half of `e` is wrong by a little; what is wrong with `a` is removed by the ReLU after it."""

    def negative(array: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.where(array < 0, array * 9, array), array.dtype)

    found = explained({"a": negative, "e": lambda x: x * np.float32(1.05)}).culprit
    assert found is not None
    assert found.name == "e"
    assert found.own_db == pytest.approx(26, abs=0.5)


def test_an_honest_artifact_has_many_sources() -> None:
    lines = explained(every=int8).lines()
    assert lines[0].startswith("the error has many sources")


def test_a_layer_that_saturates_behind_the_fault_is_not_blamed() -> None:
    """Its own error costs more alone than the fault does, which it is due to."""

    def clipped(array: NDArray[Any]) -> NDArray[Any]:
        return np.clip(array, -4, 4)

    found = explained({"c": lambda x: x + np.float32(40), "e": clipped}, every=int8).culprit
    assert found is not None
    assert found.name == "c"


def test_an_artifact_that_is_the_network_has_none() -> None:
    told = explained()
    assert (told.culprit, told.lines(), told.outputs_db) == (None, [SAME], math.inf)


def test_an_artifact_that_shows_nothing_cannot_be_explained() -> None:
    told = explained(shown="")
    assert told.culprit is None
    assert told.lines() == ["no tensor of the artifact is like one of the float network"]


def test_of_a_value_and_its_rounded_form_the_one_that_errs_is_shown() -> None:
    comparison = Comparison(network=Net())
    image = IMAGE.astype(np.float32)
    comparison.measure({"x": image})
    right = comparison.clean["b"]
    comparison.see("b", right, "RELU 'b'")
    comparison.see("b", right * np.float32(2), "DEQUANTIZE 'b_2'")
    for name in "cdefy":
        comparison.see(name, _after(name, right * np.float32(2)), name)
    found = comparison.explained("worst").culprit
    assert found is not None
    assert (found.name, found.artifact) == ("b", "DEQUANTIZE 'b_2'")


def _after(name: str, given: NDArray[Any]) -> NDArray[Any]:
    values: dict[str, Any] = {"x": IMAGE.astype(np.float32)}
    return dict(Net().run(values, given={"b": given}))[name]


def test_the_line_of_the_source_is_told() -> None:
    told = explained({"e": np.zeros_like}, line=lambda made: f"net.py:7 in forward: {made.name}")
    assert told.lines()[1] == "  in the source: net.py:7 in forward: e"
    assert told.to_json()["source"] == "net.py:7 in forward: e"


def test_json_has_no_numbers_that_json_has_not() -> None:
    told = explained({"a": np.zeros_like}).to_json()
    assert (told["layer"], told["operator"]) == ("a/n", "MatMul")
    assert told["tensor"]["before_db"] == "inf"
    assert told["tensor"]["own_db"] == 0.0
