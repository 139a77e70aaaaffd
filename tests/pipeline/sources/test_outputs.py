"""The outputs of a model, as two runs show them."""

from __future__ import annotations

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.pipeline.sources.outputs import described, examples, named, shapes, sizes

IMAGE = Tensor(name="image", shape=("batch", 3, "height", "width"), dtype="float32", layout="nchw")
IDS = Tensor(name="ids", shape=("batch", "length"), dtype="int64", range=(0, 9))
DIMS = {"batch": (1, 4), "height": (8, 32), "width": (8, 32)}
IMAGES = Signature(inputs=(IMAGE,), dims=DIMS)


def test_examples_differ_in_every_dynamic_size_within_the_ranges() -> None:
    before, after = (sizes((IMAGE,), arrays) for arrays in examples(IMAGES))
    for name, (low, high) in DIMS.items():
        assert before[name] != after[name]
        assert low <= before[name] <= high
        assert low <= after[name] <= high


def test_examples_differ_in_their_values_and_stay_in_range() -> None:
    fixed = Signature(inputs=(Tensor(name="ids", shape=(50,), dtype="int64", range=(0, 9)),))
    before, after = examples(fixed)
    assert (before["ids"] != after["ids"]).any()
    assert after["ids"].dtype == np.int64
    assert after["ids"].min() >= 0
    assert after["ids"].max() <= 9


@pytest.mark.parametrize("bounds", [(1, 2), (2, 3), (5, 1_000_000_000), (1, 1)])
def test_any_range_has_its_examples(bounds: tuple[int, int]) -> None:
    signature = Signature(inputs=(IDS,), dims={"batch": bounds, "length": (2, 9)})
    for arrays in examples(signature):
        assert bounds[0] <= arrays["ids"].shape[0] <= bounds[1]


def test_bools_are_mirrored() -> None:
    mask = Signature(inputs=(Tensor(name="mask", shape=(40,), dtype="bool"),))
    before, after = examples(mask)
    assert (before["mask"] != after["mask"]).all()


def test_axes_bear_the_names_of_the_dimensions_they_follow() -> None:
    def run(inputs: Arrays) -> Arrays:
        image = inputs["image"]
        return {
            "same": image[:, :1],
            "flat": image.mean((2, 3)),
            "half": image[:, :, ::2],
            "count": np.int64(3)[None].astype(np.int64),
        }

    same, flat, half, count = described(run, IMAGES)
    assert same.shape == ("batch", 1, "height", "width")
    assert same.layout == "nchw"
    assert flat == Tensor(name="flat", shape=("batch", 3), dtype="float32")
    assert half.shape == ("batch", 3, "half_dim2", "width")
    assert count == Tensor(name="count", shape=(1,), dtype="int64")


def test_a_rank_that_changes_with_the_size_is_refused() -> None:
    signature = Signature(inputs=(IDS,), dims={"batch": (1, 2), "length": (4, 8)})
    with pytest.raises(StageError, match="output 'y' has 2 dimensions for one size of input and 1"):
        described(lambda inputs: {"y": inputs["ids"].squeeze()}, signature)


def test_names_are_those_wanted_if_their_number_is_right() -> None:
    assert named(["a", "b"], None) == ("a", "b")
    assert named(["a", "b"], ["x", "y"]) == ("x", "y")
    with pytest.raises(StageError, match=r"1 names \(x\) for a model that gives 2 \(a, b\)"):
        named(["a", "b"], ["x"])


def test_shapes_reads_as_people_write_them() -> None:
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.int64)}
    assert shapes(arrays) == "a[2,3] float32, b[] int64"
