"""Two artifacts in turns: what is timed, and what is not."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.vectors import Vector, write_vectors
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.pipeline.stages import benchmark

X = Tensor(name="x", shape=("batch", 3), dtype="float32")


class Session:
    """Takes as long as the file `seconds` beside the artifact says."""

    inputs = outputs = (X,)

    def __init__(self, artifact: Path) -> None:
        self.seconds = float((artifact / "seconds").read_text())

    def run(self, inputs: Arrays) -> Arrays:
        assert inputs["x"].dtype == np.float32
        time.sleep(self.seconds)
        return {}


def opened(*, artifact: Path) -> Any:
    told = (artifact / "seconds").read_text()
    if told == "broken":
        raise StageError("no model at all")
    if told == "elsewhere":
        return SimpleNamespace(remark="computed by another program")
    return None if told == "nowhere" else Session(artifact)


def artifact(folder: Path, seconds: Any, *, batch: int = 1, cases: int = 1) -> Path:
    folder.mkdir()
    (folder / "seconds").write_text(str(seconds))
    arrays = {"x": np.zeros((batch, 3), np.float32)}
    case = Case(name="0", origin="real", arrays=arrays, dims={})
    entries = write_vectors(folder, [Vector(case=case, outputs={})] * cases)
    manifest = {
        **dict.fromkeys(manifests.KEYS, ""),
        **{"schema": 1, "io": None, "inputs": [{"name": "x"}], "vectors": {"cases": entries}},
    }
    manifests.write_json(folder / "manifest.json", manifest)
    return folder


def times(tmp_path: Path, before: Any, after: Any, **sizes: Any) -> Mapping[str, Any]:
    inputs = {
        "before": artifact(tmp_path / "a", before),
        "after": artifact(tmp_path / "b", after, **sizes),
    }
    (tmp_path / "out").mkdir()
    options = {"open": f"{__name__}:opened", "narrowed": {}}
    benchmark.run(inputs=inputs, options=options, out=tmp_path / "out")
    told: dict[str, Any] = json.loads((tmp_path / "out/times.json").read_text())
    return told


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "function", lambda _: opened)


def test_both_are_timed_in_pairs(tmp_path: Path) -> None:
    told = times(tmp_path, 0.001, 0.004)
    assert len(told["before"]) == len(told["after"]) == benchmark.PAIRS
    assert min(told["before"]) >= 0.001
    assert min(told["after"]) >= 0.004


@pytest.mark.parametrize(
    ("after", "sizes", "said"),
    [
        ("broken", {}, "it does not load: .*no model at all"),
        ("elsewhere", {}, "computed by another program"),
        ("nowhere", {}, "no runtime for it on this host"),
        (0, {"batch": 2}, "differ in names, shapes or dtypes"),
        (0, {"cases": 0}, "it has no test vectors"),
    ],
)
def test_what_cannot_be_timed_says_why(
    tmp_path: Path, after: Any, sizes: dict[str, int], said: str
) -> None:
    told = times(tmp_path, 0, after, **sizes)
    assert list(told) == ["unmeasured"]
    assert re.search(said, told["unmeasured"])


def test_a_sample_is_the_least_of_several_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 9.0, 9.5, 9.5, 20.0])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    call = benchmark._Call(SimpleNamespace(run=lambda inputs: None), {})  # type: ignore[arg-type]
    call.bursts, call.repeats = 3, 5
    assert call.seconds() == 0.1


def test_slow_artifacts_are_timed_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "MOST_SECONDS", 0.01)
    told = times(tmp_path, 0.001, 0.001)
    assert len(told["before"]) == benchmark.LEAST_PAIRS


def test_who_goes_first_alternates() -> None:
    order: list[str] = []

    class Call:
        def __init__(self, name: str) -> None:
            self.name = name

        def settle(self) -> None:
            order.append("settle")

        def seconds(self) -> float:
            order.append(self.name)
            return 1.0

    one, other = Call("before"), Call("after")
    benchmark._measure(one, other)  # type: ignore[arg-type]
    turns = [tuple(order[index : index + 2]) for index in range(2, len(order), 2)]
    assert len(turns) == benchmark.PAIRS
    assert set(turns[::2]) != set(turns[1::2])
    assert {frozenset(turn) for turn in turns} == {frozenset(("before", "after"))}
