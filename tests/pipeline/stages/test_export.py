"""The export stage hands the source what the step says, and reports what it learnt."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from crosscast.pipeline import sources
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.stages import StageResult, export

DECLARED = Signature(inputs=(Tensor(name="x", shape=(2,), dtype="float32"),))
COMPLETED = Signature(inputs=(Tensor(name="x", shape=(2, 3), dtype="float32"),))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a fake source's `export` was given."""
    given: dict[str, Any] = {}

    def fake_export(**parameters: Any) -> dict[str, Any]:
        given.update(parameters)
        return {"exporter": "fake"}

    module = ModuleType("fake_source")
    vars(module).update(
        signature=lambda *, source, declared: COMPLETED,
        export=fake_export,
        dependencies=lambda: ("/a/net.py",),
    )
    monkeypatch.setitem(sys.modules, "fake_source", module)
    monkeypatch.setattr(sources, "SOURCES", {"fake": "fake_source"})
    return given


def test_the_source_gets_the_completed_signature_and_the_program(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    source = {"kind": "fake"}
    options = {
        "source": source,
        "signature": DECLARED.to_json(),
        "outputs": ["y"],
        "to": "onnx",
        "opset": 18,
        "layout": "nhwc",
    }
    result = export.run(inputs={"program": tmp_path / "p"}, options=options, out=tmp_path)
    assert result == StageResult(dependencies=("/a/net.py",), notes={"exporter": "fake"})
    assert asked == {
        "to": "onnx",
        "source": source,
        "signature": COMPLETED,
        "outputs": ["y"],
        "opset": 18,
        "layout": "nhwc",
        "program": tmp_path / "p",
        "out": tmp_path,
    }
