"""Choosing what of a ML Program computes in fp16, with sessions that stand in for packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.targets.families import coreml, coreml_compute, coreml_convert
from crosscast.targets.families.coreml_compute import RUNGS, Trial
from crosscast.targets.families.coreml_convert import Conversion

X = Tensor(name="x", shape=(64,), dtype="float32", range=(-1.0, 1.0))
SIGNATURE = Signature(inputs=(X,), outputs=(Tensor(name="y", shape=(64,), dtype="float32"),))


class Fake:
    """Gives its input with a relative error, or what is no number."""

    inputs, outputs = SIGNATURE.inputs, SIGNATURE.outputs

    def __init__(self, error: float) -> None:
        self._error = error

    def run(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        return {"y": (x * (1 + self._error * np.sign(np.sin(np.arange(64))))).astype(x.dtype)}


def packages(monkeypatch: pytest.MonkeyPatch, errors: Mapping[str, float]) -> None:
    """Have directories stand for packages, by what is in their only file."""

    def evaluated(*, artifact: Path) -> Fake:
        return Fake(errors[(artifact / coreml.MODEL / "compute").read_text()])

    def write(_asked: Conversion, compute: str, out: Path) -> None:
        (out / coreml.MODEL).mkdir()
        (out / coreml.MODEL / "compute").write_text(compute)

    monkeypatch.setattr(coreml, "evaluated", evaluated)
    monkeypatch.setattr(Conversion, "write", write)


@pytest.mark.parametrize(
    ("errors", "wanted"),
    [
        ({"float16": 1e-3, "mixed": 0.0}, "float16"),
        ({"float16": 0.1, "mixed": 1e-3}, "mixed"),
        ({"float16": float("nan"), "mixed": 1e-3}, "mixed"),
        ({"float16": 0.1, "mixed": 0.1}, "float32"),
    ],
)
def test_the_first_that_is_near_enough_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, errors: dict[str, float], wanted: str
) -> None:
    packages(monkeypatch, {"float32": 0.0, **errors})
    found = coreml_convert._tried(
        Conversion(tmp_path, SIGNATURE, "iOS16", None, True), None, tmp_path
    )
    assert found == wanted
    assert (tmp_path / coreml.MODEL / "compute").read_text() == wanted
    assert [entry.name for entry in tmp_path.iterdir()] == [coreml.MODEL]


@pytest.mark.parametrize("error", [StageError("cannot"), Unproven("lacks an operator")])
def test_what_cannot_be_tried_computes_in_fp16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def evaluated(*, artifact: Path) -> Fake:
        raise error

    monkeypatch.setattr(coreml, "evaluated", evaluated)
    trial = Trial.of(tmp_path, SIGNATURE, None)
    assert trial.passes(tmp_path)


def test_only_what_is_not_all_fp16_has_something_said_of_it() -> None:
    assert [name for name, said in RUNGS.items() if not said] == ["float16"]
    assert all(f"compute: {name}" in said for name, said in RUNGS.items() if said)
    assert "softmax" not in coreml_compute.HEAVY
