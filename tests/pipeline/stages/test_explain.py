"""The stage that explains verdicts, with a network and a target of numpy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.divergence import Made
from crosscast.pipeline.parity.metrics import Numbers
from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.tolerance import TOLERANCES
from crosscast.pipeline.parity.vectors import Vector, write_vectors
from crosscast.pipeline.parity.verdict import Audit, Row, judge
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.pipeline.stages.explain import run
from crosscast.targets.base import Tap

SIGNATURE = Signature(
    inputs=(Tensor(name="x", shape=(1, 20), dtype="float32"),),
    outputs=(Tensor(name="y", shape=(1, 20), dtype="float32"),),
)
X = np.linspace(-1, 1, 20, dtype=np.float32)[None]


class Net:
    """h = 2 x, y = h + 1; the factor is what the tree `exported` is called."""

    def __init__(self, tree: Path, *, scratch: Path) -> None:
        assert scratch.is_dir()
        self.factor = float(tree.name)
        self.inputs, self.outputs = ["x"], ["y"]
        self.made = {
            "h": Made(name="h", node="scale", operator="Mul", reads=("x",)),
            "y": Made(name="y", node="shift", operator="Add", reads=("h",)),
        }

    def values(self, under: dict[str, Any] | None = None) -> dict[str, Any]:
        return dict(under or {})

    def run(self, values: Any, *, given: Any = None) -> Iterator[tuple[str, Any]]:
        steps: dict[str, Callable[[], Any]] = {
            "h": lambda: values["x"] * np.float32(self.factor),
            "y": lambda: values["h"] + np.float32(1),
        }
        for name, compute in steps.items():
            own = compute()
            values[name] = given[name] if given and name in given else own
            yield name, own

    def disturbed(self, values: Any, places: Sequence[str]) -> Callable[[Arrays], Arrays]:
        return lambda errors: {"y": values["y"] + sum(errors[name] for name in errors)}


def explained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    taps: Callable[..., None],
    factor: str = "2.0",
    instead: str = "",
) -> dict[str, Any]:
    """What the stage writes of an artifact that shows itself by `taps` and is 4 dB off."""
    pieces, target = ModuleType("pieces"), ModuleType("fake_target")
    pieces.Pieces = Net  # type: ignore[attr-defined]
    target.open = lambda **_: type("Session", (), {"inputs": SIGNATURE.inputs})()  # type: ignore[attr-defined]
    target.taps = taps  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "crosscast.targets.families.onnx_pieces", pieces)
    monkeypatch.setitem(sys.modules, "fake_target", target)
    reference, verdict = tmp_path / "reference", tmp_path / "verdict"
    reference.mkdir()
    verdict.mkdir()
    case = Case(name="one", origin="real", arrays={"x": X})
    write_vectors(reference, [Vector(case=case, outputs={"y": X * 2 + 1})])
    write_json(reference / "signature.json", SIGNATURE.to_json())
    row = Row(
        case="one",
        output="y",
        origin="real",
        gated=True,
        numbers=Numbers(elements=20, snr_db=4.0, max_error=0.5),
    )
    judged = judge(
        audit=Audit(asked="fp32", delivered="fp32"),
        tolerance=TOLERANCES["fp32"],
        outputs=["y"],
        rows=[row],
    )
    write_json(verdict / "verdict.json", judged.to_json())
    options = {"open": "fake_target:open", "taps": "fake_target:taps"}
    run(
        inputs={
            "model": tmp_path,
            "reference": reference,
            "verdict": verdict,
            "exported": tmp_path / factor,
        },
        options={**options, "layout": None, "io": None, "narrowed": {}, "instead": instead},
        out=tmp_path / "out",
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["explanation.json"]
    found: dict[str, Any] = json.loads((tmp_path / "out/explanation.json").read_text())
    return found


def showing(factor: float) -> Callable[..., None]:
    """Taps of an artifact that scales by another factor."""

    def taps(*, artifact: Path, inputs: Arrays, tell: Callable[[Tap], None]) -> None:
        h = inputs["x"] * np.float32(factor)
        for name, operator, array in (("h", "MUL", h), ("y", "ADD", h + np.float32(1))):
            tell(Tap(name=f"t/{name}", operator=operator, layer="op", called=name, array=array))

    return taps


def test_the_layer_that_errs_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = explained(tmp_path, monkeypatch, showing(3.0))
    assert (found["case"], found["layer"], found["operator"]) == ("one", "scale", "Mul")
    assert found["tensor"]["artifact"] == "MUL 't/h' (op)"


def test_an_export_that_differs_from_the_source_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explained(tmp_path, monkeypatch, showing(2.5), factor="2.5")
    assert found["layer"] == ""
    (line,) = found["lines"]
    assert line.startswith("the export to ONNX is at fault: it differs from the source itself in")


def test_what_is_right_operator_by_operator_is_the_runtime_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explained(tmp_path, monkeypatch, showing(2.0 + 1e-6))
    assert "what is wrong is done by the runtime's optimisations" in found["lines"][0]


def test_what_is_told_of_another_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explained(tmp_path, monkeypatch, showing(3.0), instead="onnx-int8")
    assert found["layer"] == "scale"
    assert found["lines"][0] == (
        "it shows no tensors; those of 'onnx-int8', which it is made from, say:"
    )


def test_an_artifact_that_cannot_be_looked_into_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> None:
        raise ValueError("no such buffer")

    found = explained(tmp_path, monkeypatch, broken)
    assert found["lines"] == ["where the error comes from is not known: ValueError: no such buffer"]
