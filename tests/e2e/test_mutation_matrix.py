"""A sample of the mutants' matrix: what computes something else is rejected, on every format.

`benchmarks/mutations.py` runs all of it. Mutants are built here as there, from the same table.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mutants import matrix, plans, results
from mutants.bench import bench
from mutants.matrix import Row
from mutants.semantic import SEMANTIC
from mutations import MODELS

pytestmark = pytest.mark.e2e
pytest.importorskip("torch")

SAMPLE = {
    "digits-vae": ("onnx", "onnx-fp16", "onnx-int8", "tflite-fp32"),
    "lstm": ("onnx", "onnx-int8"),
}
ALLOWED: dict[tuple[str, str, str], str] = {}
"""Mutants that may pass, by (model, target, mutation), each with the reason. There are none."""


@pytest.fixture(scope="module", params=SAMPLE)
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, overlays: Path
) -> tuple[list[Row], dict[str, Any]]:
    """The honest artifacts of a model, its mutants, and what is found of damaged files."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "overlays").symlink_to(overlays)
    name = request.param
    plan = plans.honest(plans.configured(MODELS[name].config, SAMPLE[name]))
    with bench(cache, jobs=os.cpu_count() or 1) as place:
        honest = matrix.honest_rows(place, plan, model=name)
        mutants, _ = matrix.semantic_rows(place, plan, list(SEMANTIC), model=name)
        damaged = matrix.damage(place, plan, flips=0)
    return [*honest, *mutants], damaged


@pytest.fixture
def rows(measured: tuple[list[Row], dict[str, Any]]) -> list[Row]:
    """The honest artifacts of a model, and its mutants."""
    return measured[0]


def test_no_damage_of_weights_or_scales_hides_in_fewer_bits(
    measured: tuple[list[Row], dict[str, Any]],
) -> None:
    damaged = {target: found["files"] for target, found in measured[1].items()}
    assert damaged.keys() == {row.target for row in measured[0]}
    for files in damaged.values():
        rejected, done = files["NaN for a weight"]
        assert rejected == done
    assert damaged["onnx-int8"]["a scale a quarter too large"] == [1, 1]


def test_no_honest_artifact_is_rejected(rows: list[Row]) -> None:
    honest = results.honest(rows)
    assert {row.target for row in honest} == set(SAMPLE[honest[0].model])
    assert [(row.target, row.reason) for row in honest if row.status != "passed"] == []
    assert results.alarms(rows) == []


def test_every_mutant_is_built_and_rejected(rows: list[Row]) -> None:
    mutants = [row for row in rows if row.group == "semantic"]
    assert len({row.mutation for row in mutants}) >= 10
    assert [(row.target, row.mutation, row.reason) for row in mutants if not row.precision] == []
    passed = results.survivors(rows)
    assert [it for it in passed if (it.model, it.target, it.mutation) not in ALLOWED] == []


def test_int8_alone_would_let_some_by(rows: list[Row]) -> None:
    """So what is quantized has to be judged before: the gate without that step is known to leak."""
    if rows[0].model == "digits-vae":
        own = [it for it in results.judged(rows, "semantic") if it.status == "passed"]
        assert {"middle bias dropped", "last bias dropped"} <= {it.mutation for it in own}
        assert all(it.float_status == "failed" for it in own)
