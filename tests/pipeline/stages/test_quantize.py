"""Quantize calls the function that it is told to, with samples where there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.stages import quantize
from crosscast.targets.base import NOTES, SAID

calls: list[dict[str, Any]] = []


def record(**given: Any) -> None:
    """Stand in for a family's function."""
    calls.append(given)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    monkeypatch.setattr(quantize, "function", {"x:record": record}.__getitem__)


@pytest.mark.parametrize("samples", [None, Path("samples")])
def test_quantize_passes_the_samples_where_there_are_any(
    tmp_path: Path, samples: Path | None
) -> None:
    inputs = {"model": tmp_path} | ({"samples": samples} if samples else {})
    quantize.run(inputs=inputs, options={"function": "x:record", "options": {}}, out=tmp_path)
    assert calls == [{"model": tmp_path, "options": {}, "samples": samples, "out": tmp_path}]


def test_the_targets_own_limits_are_passed_on(tmp_path: Path) -> None:
    limits = {"min_snr_db": 20.0, "reason": "a test"}
    options = {"function": "x:record", "options": {}, "parity": limits}
    quantize.run(inputs={"model": tmp_path}, options=options, out=tmp_path)
    assert calls[0]["parity"] == limits


def test_what_stays_in_float_is_said(tmp_path: Path) -> None:
    (tmp_path / NOTES).write_text(json.dumps({SAID: "2 of 9 operators in float"}))
    options = {"function": "x:record", "options": {}}
    result = quantize.run(inputs={"model": tmp_path}, options=options, out=tmp_path)
    assert result.notes["reason"] == "2 of 9 operators in float"
