"""Packages of images and classes, without Core ML: predictions are made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.targets.base import Session
from crosscast.targets.families.coreml_features import Beside, PackageSession, Scores, fed

IMAGE = Tensor(name="x", shape=("n", 2, 3, 3), dtype="uint8", layout="nhwc")
FACTOR = Tensor(name="factor", shape=(2, "n"), dtype="float32")
COMMON = Tensor(name="common", shape=(4,), dtype="float32")
SUMS = Tensor(name="sums", shape=(2, "n"), dtype="float32")
SCORES = Scores(
    label="classLabel",
    feature="classLabel_probs",
    classes=("ant", "bee"),
    place=1,
    shape=("n", 2),
)


def predict(arrays: Arrays) -> Mapping[str, Any]:
    assert arrays["x"].shape == (1, 2, 3, 3)
    assert arrays["factor"].shape == (2, 1)
    assert arrays["common"].shape == (4,)
    total = float(arrays["x"].sum())
    scores = {"bee": total, "ant": 30.0}
    return {
        "classLabel": max(scores, key=scores.__getitem__),
        "classLabel_probs": scores,
        "sums": arrays["factor"].astype(np.float64) * total,
    }


def session(scores: Scores = SCORES) -> PackageSession:
    return PackageSession(
        predict,
        inputs=(IMAGE, FACTOR, COMMON),
        outputs=(SUMS, scores.tensor()),
        batch="n",
        scores=scores,
    )


def inputs(count: int) -> Arrays:
    return {
        "x": np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((2, 3, 3), np.uint8),
        "factor": np.ones((2, count), np.float32),
        "common": np.zeros(4, np.float32),
    }


def test_several_are_predictions_one_after_another() -> None:
    opened = session()
    found = opened.run(inputs(3))
    assert list(found) == ["sums", "classLabel_probs"]
    assert found["sums"].tolist() == [[0, 18, 36], [0, 18, 36]]
    assert found["sums"].dtype == np.float32
    assert found["classLabel_probs"].tolist() == [[30, 0], [30, 18], [30, 36]]
    assert opened.labels == ("ant", "bee")


def test_inputs_of_unequal_numbers_are_refused() -> None:
    with pytest.raises(StageError, match=r"'n' of \[2, 3\], not of one size"):
        session().run({**inputs(3), "factor": np.ones((2, 2), np.float32)})


def test_a_class_that_has_not_the_greatest_score_is_an_error() -> None:
    values = {"classLabel": "ant", "classLabel_probs": {"ant": 0.25, "bee": 0.75}}
    with pytest.raises(StageError, match="tells 'ant' where 'bee' has the greatest score"):
        SCORES.array(values)
    assert SCORES.array({**values, "classLabel": "bee"}).tolist() == [[0.25, 0.75]]


def test_equal_scores_may_be_either() -> None:
    scores = {"ant": 0.5, "bee": 0.5}
    for name in scores:
        SCORES.array({"classLabel": name, "classLabel_probs": scores})


def test_scores_of_other_classes_are_an_error() -> None:
    with pytest.raises(StageError, match="scores of other classes"):
        session(replace(SCORES, classes=("ant", "cow"))).run(inputs(1))


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_an_image_is_fed_as_pillows(channels: int, mode: str) -> None:
    pixels = np.arange(6 * channels, dtype=np.uint8).reshape(1, 2, 3, channels)
    found = fed(pixels, IMAGE)
    assert (found.mode, found.size) == (mode, (3, 2))
    np.testing.assert_array_equal(np.asarray(found).reshape(pixels.shape), pixels)
    array = fed(np.float64([1]), COMMON)
    assert array.dtype == np.float32


class Lacking:
    """An evaluator's session that gives another number, or nothing."""

    inputs, outputs = session().inputs, session().outputs

    def __init__(self, factor: float = 1.0, error: Exception | None = None) -> None:
        self._factor, self._error = factor, error

    def run(self, inputs: Arrays) -> Arrays:
        if self._error:
            raise self._error
        return {name: it * np.float32(self._factor) for name, it in session().run(inputs).items()}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Lacking(), "Core ML and the reference evaluator agree to inf dB"),
        (Lacking(1.001), "Core ML and the reference evaluator agree to 60.0 dB"),
        (
            Lacking(error=Unproven("evaluator has no operator x")),
            "the reference evaluator could not be held against Core ML: evaluator has no "
            "operator x",
        ),
        (
            Lacking(float("nan")),
            "the reference evaluator could not be held against Core ML: output 'sums': ",
        ),
    ],
)
def test_what_core_ml_gives_counts_and_the_evaluator_is_told_beside(
    other: Lacking, told: str
) -> None:
    both = Beside(session(), lambda: other)
    for _ in range(2):
        found = both.run(inputs(3))
        assert found["sums"].tolist() == [[0, 18, 36], [0, 18, 36]]
    assert both.remark.startswith(told)
    assert both.labels == ("ant", "bee")


def test_an_evaluator_that_does_not_open_is_told() -> None:
    def absent() -> Session:
        raise Unproven("evaluator has no opset 'CoreML99'")

    both = Beside(session(), absent)
    assert both.run(inputs(1))
    assert both.remark.endswith("evaluator has no opset 'CoreML99'")
