"""Choosing what of a ML Program computes in fp16, with sessions that stand in for packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.targets.families import coreml, coreml_compute, coreml_convert
from crosscast.targets.families.coreml_compute import RUNGS, Choice, Trial
from crosscast.targets.families.coreml_convert import Conversion
from crosscast.targets.families.mil.losses import Loss

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


def packages(
    monkeypatch: pytest.MonkeyPatch, errors: Mapping[str, float], lost: Sequence[Loss]
) -> None:
    """Have directories stand for packages, by what is in their only file."""

    def evaluated(*, artifact: Path) -> Fake:
        return Fake(errors[(artifact / coreml.MODEL / "compute").read_text()])

    def write(_asked: Conversion, choice: Choice, out: Path) -> None:
        (out / coreml.MODEL).mkdir()
        named = f"{choice.compute} but {' '.join(choice.kept)}" if choice.kept else choice.compute
        (out / coreml.MODEL / "compute").write_text(named)

    monkeypatch.setattr(coreml, "evaluated", evaluated)
    monkeypatch.setattr(coreml, "losses", lambda **_: list(lost))
    monkeypatch.setattr(Conversion, "write", write)


LARGE = Loss(operation="mul", name="h", kind="overflow", value=7e4)


@pytest.mark.parametrize(
    ("errors", "lost", "wanted"),
    [
        ({"float16": 1e-3, "mixed": 0.0}, [], "float16"),
        ({"float16": 0.1, "mixed": 1e-3}, [], "mixed"),
        ({"float16": float("nan"), "mixed": 1e-3}, [], "mixed"),
        ({"float16": 0.1, "mixed": 0.1}, [], "float32"),
        ({"float16": 0.1, "float16 but h": 1e-3}, [LARGE], "float16 but h"),
        ({"float16": 0.1, "float16 but h": 0.1, "mixed but h": 0.0}, [LARGE], "mixed but h"),
        ({"float16": 0.1, "float16 but h": 0.1, "mixed but h": 0.1}, [LARGE], "float32"),
    ],
)
def test_the_first_that_is_near_enough_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    errors: dict[str, float],
    lost: list[Loss],
    wanted: str,
) -> None:
    packages(monkeypatch, {"float32": 0.0, **errors}, lost)
    asked = Conversion(tmp_path, SIGNATURE, coreml.CoreMLOptions(), True)
    found = coreml_convert._tried(asked, "float16", None, tmp_path)
    assert found.compute == wanted.split()[0]
    assert list(found.kept) == wanted.split()[2:]
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


def test_what_is_kept_is_named_up_to_a_few() -> None:
    kept = {name: f"mul '{name}' overflows fp16 (7e+04)" for name in "abcde"}
    said = Choice(compute="float16", kept=kept).said
    assert said.startswith("kept in fp32: mul 'a' overflows")
    assert said.endswith("'c' overflows fp16 (7e+04); and 2 more")
    assert Choice(compute="float16").said == ""


def test_inputs_that_fp16_does_not_hold_are_named() -> None:
    arrays = {
        "far": np.array([1e5], np.float32),
        "near": np.array([1e4], np.float32),
        "ids": np.array([100_000]),
    }
    assert coreml_compute._out_of_range(arrays) == {"far": "input 'far' overflows fp16 (1e+05)"}
