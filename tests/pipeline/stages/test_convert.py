"""Convert calls the function that it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.stages import StageResult, convert

calls: list[dict[str, Any]] = []


def record(**given: Any) -> None:
    """Stand in for a family's function."""
    calls.append(given)


def refuse(**given: Any) -> None:
    """Stand in for a converter that cannot."""
    raise StageError(f"{given['model'].name}: no")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    functions = {"x:record": record, "x:refuse": refuse}
    monkeypatch.setattr(convert, "function", functions.__getitem__)


def test_convert_passes_model_options_and_out(tmp_path: Path) -> None:
    result = convert.run(
        inputs={"model": tmp_path / "in"},
        options={"function": "x:record", "options": {"opset": 18}},
        out=tmp_path / "out",
    )
    assert result == StageResult()
    assert calls == [{"model": tmp_path / "in", "options": {"opset": 18}, "out": tmp_path / "out"}]


def test_convert_lets_a_stage_error_through(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="in: no"):
        convert.run(
            inputs={"model": tmp_path / "in"},
            options={"function": "x:refuse", "options": {}},
            out=tmp_path,
        )


def test_convert_passes_samples_and_says_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"said": "half of it"}')
    result = convert.run(
        inputs={"model": tmp_path / "in", "samples": tmp_path / "samples"},
        options={"function": "x:record", "options": {}},
        out=tmp_path,
    )
    assert calls[0]["samples"] == tmp_path / "samples"
    assert result.notes == {"reason": "half of it"}
