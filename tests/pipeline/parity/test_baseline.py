from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.parity.baseline import Gathered, gather, proves_nothing
from crosscast.pipeline.parity.metrics import Extent
from crosscast.pipeline.parity.samples import Case, Origin
from crosscast.pipeline.parity.tolerance import TOLERANCES
from crosscast.pipeline.parity.vectors import Vector


def vector(origin: Origin, **outputs: Any) -> Vector:
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return Vector(case=Case(name="x", origin=origin, arrays={}), outputs=arrays)


def vacuous(*vectors: Vector, precision: str = "fp32") -> str:
    return proves_nothing(vectors, baseline=gather(vectors), limits=TOLERANCES[precision])


def test_real_rows_say_what_is_typical() -> None:
    found = gather(
        [
            vector("real", y=[0.0, 1.0]),
            vector("swept", y=[0.0, 3.0]),
            vector("synthetic", y=[0.0, 50.0]),
            vector("adversarial", y=[0.0, 1e6]),
        ]
    )
    assert found.typical["y"].high == 3.0
    assert found.has_real
    assert found.origins == {"real": 1, "swept": 1, "synthetic": 1, "adversarial": 1}


def test_what_was_measured_of_some_outputs_is_not_measured_again() -> None:
    seen = Gathered()
    seen.add([vector("real", y=[1.0], z=[2.0])], {"y": [Extent(low=5.0, high=6.0, finite=1)]})
    found = seen.baseline()
    assert (found.typical["y"].high, found.typical["z"].high) == (6.0, 2.0)


def test_synthetic_rows_stand_in_for_real_ones() -> None:
    found = gather([vector("synthetic", y=[50.0]), vector("adversarial", y=[1e6])])
    assert found.typical["y"].high == 50.0
    assert not found.has_real
    assert gather([vector("adversarial", y=[1e6])]).typical["y"].high == 1e6


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_outputs_that_never_vary_prove_nothing(precision: str) -> None:
    same = [vector("real", y=[1.0, 2.0]), vector("real", y=[1.0, 2.0 + 1e-7])]
    assert "hardly vary" in vacuous(*same, precision=precision)
    assert not vacuous(*same, vector("adversarial", y=[2.0, 1.0]), precision=precision)


def test_variation_below_the_tolerance_proves_nothing() -> None:
    near = [vector("real", y=[1.0, 2.0]), vector("real", y=[1.0, 2.05])]
    assert not vacuous(*near, precision="fp32")
    assert "hardly vary" in vacuous(*near, precision="int8")


def test_one_varying_output_is_enough() -> None:
    assert not vacuous(vector("real", a=[1.0], y=[1.0]), vector("real", a=[1.0], y=[2.0]))


def test_integers_and_non_finite_values_may_vary_too() -> None:
    assert "hardly vary" in vacuous(vector("real", y=[1, 2]), vector("real", y=[1, 2]))
    assert not vacuous(vector("real", y=[1, 2]), vector("real", y=[1, 3]))
    assert not vacuous(vector("real", y=[1.0, np.nan]), vector("real", y=[1.0, 2.0]))


def test_shapes_that_never_repeat_cannot_be_told() -> None:
    assert not vacuous(vector("real", y=[1.0]), vector("real", y=[1.0, 1.0]))


def test_an_output_without_a_finite_value_proves_nothing() -> None:
    nan = [vector("real", y=[np.nan], z=[1.0]), vector("real", y=[np.inf], z=[2.0])]
    assert "'y' has no finite value" in vacuous(*nan)
    assert not vacuous(*nan, vector("real", y=[0.0], z=[3.0]))
