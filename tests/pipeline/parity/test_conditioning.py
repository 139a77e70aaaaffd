from __future__ import annotations

import math

import numpy as np
import pytest

from crosscast.pipeline.parity.conditioning import floor_db, noise, rounded
from crosscast.pipeline.parity.metrics import Extent


def test_floats_are_changed_by_as_much_as_rounding_does_and_nothing_else() -> None:
    given = {"x": np.linspace(-4, 4, 999, dtype=np.float32), "ids": np.arange(3), "z": np.zeros(2)}
    found = rounded(given, precision="fp16", seed=1)
    error = np.abs(found["x"] - given["x"]) / np.maximum(np.abs(given["x"]), 1e-9)
    assert 2**-12 < error.max() <= 2**-11 * 1.001
    assert found["x"].dtype == np.float32
    assert (found["ids"] == given["ids"]).all()
    assert not found["z"].any()


def test_the_same_seed_gives_the_same_errors() -> None:
    given = {"x": np.ones(9, np.float32)}
    once, again = (rounded(given, precision="fp32", seed=3)["x"] for _ in range(2))
    assert (once == again).all()


def test_noise_is_the_rms_of_what_changed() -> None:
    outputs = {"y": np.ones(4, np.float32), "label": np.ones(4, np.int64)}
    again = {"y": np.array([1, 1, 1, 3], np.float32), "label": np.zeros(4, np.int64)}
    assert noise(outputs, again) == {"y": 1.0}


def test_what_has_no_number_is_left_out() -> None:
    outputs = {"y": np.array([1.0, 2.0]), "z": np.array([1.0])}
    again = {"y": np.array([1.0, math.nan]), "z": np.array([[1.0]])}
    assert noise(outputs, again) == {}


def test_the_floor_is_judged_at_the_scale_of_real_use() -> None:
    quiet, loud = Extent(rms=0.1, finite=1), Extent(rms=1.0, finite=1)
    assert floor_db(0.1, own=quiet, typical=loud) == 20.0
    assert floor_db(0.1, own=loud, typical=quiet) == 20.0
    assert floor_db(0.0, own=loud, typical=loud) == math.inf
    assert floor_db(None, own=loud, typical=loud) == math.inf
    assert floor_db(0.1, own=Extent(), typical=Extent()) == -math.inf


@pytest.mark.parametrize(("precision", "levels"), [("int8", 256), ("int4", 16)])
def test_integers_round_by_a_share_of_the_greatest(precision: str, levels: int) -> None:
    array = np.linspace(-3, 3, 4001, dtype=np.float32)
    error = np.abs(rounded({"x": array}, precision=precision, seed=0)["x"] - array)
    step = 6 / levels
    assert 0.49 * step < error.max() <= 0.501 * step
    assert error[1990:2010].max() > 0.1 * step
