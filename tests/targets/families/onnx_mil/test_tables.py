"""The parts of the operators that are arithmetic on numbers, not on a program."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from crosscast.targets.families.onnx_mil import control
from crosscast.targets.families.onnx_mil.ops import (
    normalization,
    pooling,
    products,
    resizing,
    trees,
)
from crosscast.targets.families.onnx_mil.ops.resizing import Way
from crosscast.targets.families.onnx_mil.ops.slicing import sources
from crosscast.targets.families.onnx_mil.ops.table import TABLE
from crosscast.targets.families.onnx_mil.ops.windows import (
    Window,
    ceil_pads,
    interleaved,
    same_pads,
)

onnx = pytest.importorskip("onnx")

OWN = ("Swish", "SimplifiedLayerNormalization", "RMSNormalization")
"""Operators of later opsets, and of ONNX Runtime under ONNX's name."""


def test_every_entry_is_an_operator() -> None:
    for name in (*TABLE, *control.TABLE):
        domain, _, operator = name.rpartition(".")
        known = domain == "com.microsoft" or operator in OWN
        assert known or onnx.defs.has(operator, domain), name


@pytest.mark.parametrize(
    ("size", "stride", "reach", "lower", "wanted"),
    [
        (5, 2, 3, False, (1, 1)),
        (6, 2, 3, False, (0, 1)),
        (6, 2, 3, True, (1, 0)),
        (4, 3, 1, 0, (0, 0)),
    ],
)
def test_automatic_padding(
    size: int, stride: int, reach: int, lower: bool, wanted: tuple[int, int]
) -> None:
    assert same_pads([size], [stride], [reach], lower=bool(lower)) == wanted


def window(**given: Any) -> Window:
    return Window(**({"strides": (2,), "dilations": (1,), "pads": (0, 0)} | given))


def test_the_last_incomplete_window_counts_unless_it_begins_in_the_padding() -> None:
    assert ceil_pads([4], window(kernel=(3,))) == (1,)
    assert ceil_pads([5], window(kernel=(3,))) == (0,)
    # 3 + 1 in front: the window at 4 would begin behind the last element.
    assert ceil_pads([3], window(kernel=(2,), pads=(1, 1), strides=(2,))) == (0,)


def test_begins_and_ends_become_pairs() -> None:
    assert interleaved([1, 2, 3, 4]) == (1, 3, 2, 4)


def test_what_only_ceil_mode_adds_is_not_averaged() -> None:
    one = window(kernel=(3,), pads=(1, 0))
    assert pooling.counts([4], one, (0,), counted=False).ravel().tolist() == [2, 3]
    assert pooling.counts([4], one, (0,), counted=True).ravel().tolist() == [3, 3]
    assert pooling.counts([5], one, (1,), counted=True).ravel().tolist() == [3, 3, 2]


WAYS = [
    way
    for way in product(
        ("nearest", "linear", "cubic"), resizing.COORDINATES, [(4, 8), (7, 3), (5, 1), (1, 3)]
    )
    # ONNX's specification says 0 for the one place there is, its reference -0.5
    if way != ("cubic", "pytorch_half_pixel", (5, 1))
]


@pytest.mark.parametrize(("mode", "coordinates", "sizes"), WAYS)
def test_resizing_is_as_in_the_reference(
    mode: str, coordinates: str, sizes: tuple[int, int]
) -> None:
    from onnx.reference import ReferenceEvaluator

    found, length = sizes
    made = onnx.helper.make_node(
        "Resize", ["x", "", "", "n"], ["y"], mode=mode, nearest_mode="floor",
        coordinate_transformation_mode=coordinates,
    )  # fmt: skip
    tensor = onnx.helper.make_tensor_value_info
    inputs = [tensor("x", 1, [1, found]), tensor("n", 7, [2])]
    body = onnx.helper.make_graph([made], "g", inputs, [tensor("y", 1, None)])
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 19)])
    x = np.random.default_rng(0).normal(size=(1, found)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x, "n": np.array([1, length])})
    way = Way(mode=mode, coordinates=coordinates, nearest="floor", cubic=-0.75, outside=False)
    places = resizing.positions(found, length, length / found, coordinates)
    if mode == "nearest":
        got = x[:, resizing.nearest(places, found, "floor")]
    else:
        got = x @ resizing.weights(places, found, way)
    assert got == pytest.approx(wanted, abs=1e-5)


def test_weights_outside_are_shared_among_those_inside() -> None:
    way = Way(mode="cubic", coordinates="half_pixel", nearest="floor", cubic=-0.5, outside=True)
    matrix = resizing.weights(resizing.positions(4, 9, 9 / 4, "half_pixel"), 4, way)
    assert matrix.sum(axis=0) == pytest.approx(np.ones(9))


@pytest.mark.parametrize(
    ("equation", "ranks", "wanted"),
    [
        ("ij, jk", [2, 2], (["ij", "jk"], "ik")),
        ("bij,bjk->bik", [3, 3], (["bij", "bjk"], "bik")),
        ("...ij,...jk->...ik", [4, 3], (["01ij", "1jk"], "01ik")),
        ("...ii", [3], (["0ii"], "0")),
    ],
)
def test_an_equation_is_spelled_out(
    equation: str, ranks: list[int], wanted: tuple[list[str], str]
) -> None:
    assert products.parsed(equation, ranks) == wanted


def test_responses_of_an_even_number_of_channels_reach_further_up() -> None:
    matrix = normalization.response_weights(4, 2)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_padding_from_the_tensor_itself() -> None:
    assert sources(3, 2, 1, "reflect").tolist() == [2, 1, 0, 1, 2, 1]
    assert sources(3, 1, 2, "wrap").tolist() == [2, 0, 1, 2, 0, 1]


def test_the_depth_of_trees_is_that_of_the_deepest() -> None:
    yes, no = np.array([1, 1, 3, 3, 4]), np.array([2, 1, 4, 3, 4])
    assert trees.depth_of(np.array([0]), yes, no) == 2
    assert trees.depth_of(np.array([1]), yes, no) == 0
    circle = np.array([1, 0])
    assert trees.depth_of(np.array([0]), circle, circle) == -1
