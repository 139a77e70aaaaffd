"""Labelled samples in the stages `score` and `verify`: who is scored on what, and what follows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from asked import asked

from crosscast.pipeline import sources
from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.parity.vectors import Vector, write_vectors
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.pipeline.stages import score, verify
from crosscast.targets.base import Precision

SIGNATURE = Signature(
    inputs=(Tensor(name="x", shape=("batch", 3), dtype="float32"),),
    outputs=(Tensor(name="y", shape=("batch", 3), dtype="float32"),),
    dims={"batch": (1, 4)},
)
IMAGES = Signature(
    inputs=(Tensor(name="x", shape=(1, 2, 3, 4), dtype="float32", layout="nchw"),),
    outputs=(Tensor(name="y", shape=(1, 2, 3, 4), dtype="float32", layout="nchw"),),
)
Answer = Callable[[Arrays], Any]


class Session:
    def __init__(self, answer: Answer, signature: Signature) -> None:
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self.run = answer


def truth(inputs: Arrays) -> Arrays:
    return {"y": 2 * inputs["x"]}


def labelled(count: int = 400) -> Iterator[Case]:
    """Rows whose greatest number is at their label, but for one in ten."""
    random = np.random.default_rng(0)
    for index in range(count):
        row = random.uniform(-1, 1, (1, 3)).astype(np.float32)
        label = int(row.argmax()) if index % 10 else int(row.argmin())
        yield Case(
            name=f"real {index}",
            origin="real",
            arrays={"x": row},
            dims={"batch": 1},
            label=np.asarray(label),
        )


def installed(
    monkeypatch: pytest.MonkeyPatch, source: Answer, answer: Answer, signature: Signature
) -> None:
    layout = "nhwc" if signature is IMAGES else None
    target, framework = ModuleType("fake_target"), ModuleType("fake_source")
    session = Session(answer, signature.permuted(layout))
    target.open = lambda **_: session  # type: ignore[attr-defined]
    target.precision = lambda **_: Precision(delivered="fp32")  # type: ignore[attr-defined]
    framework.signature = lambda declared, **_: declared  # type: ignore[attr-defined]
    framework.load = lambda **_: Session(source, signature)  # type: ignore[attr-defined]
    framework.dependencies = lambda: ()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_target", target)
    monkeypatch.setitem(sys.modules, "fake_source", framework)
    monkeypatch.setitem(sources.SOURCES, "fake", "fake_source")  # type: ignore[arg-type]


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verdict]:
    """The verdict on an artifact that answers so, by both stages."""

    def run(
        answer: Answer,
        *,
        source: Answer = truth,
        cases: Callable[[], Iterator[Case]] = labelled,
        signature: Signature = SIGNATURE,
        parity: Any = None,
        **task: Any,
    ) -> Verdict:
        installed(monkeypatch, source, answer, signature)
        tree, reference = tmp_path / "labelled", tmp_path / "reference"
        write_json(
            tree / "labelled.json",
            {"cases": sum(write_cases(cases(), out=tree).values()), "sha256": "ab"},
        )
        scored = {"metric": "top-1", "output": None, "classes": []} | {
            key: task[key] for key in task if key == "metric"
        }
        options = {
            "source": {"kind": "fake"},
            "signature": signature.to_json(),
            "outputs": None,
            "task": scored,
        }
        score.run(inputs={"labelled": tree}, options=options, out=tmp_path / "scores")
        reference.mkdir()
        made = parity_cases([], signature=signature)
        write_vectors(reference, (Vector(case=it, outputs=source(it.arrays)) for it in made))
        write_json(reference / "signature.json", signature.to_json())
        settings = asked(
            layout="nhwc" if signature is IMAGES else None,
            parity=parity or {},
            task={**scored, "max_drop": 0.02, "confidence": 0.95, **task},
        )
        inputs = {
            "model": tmp_path,
            "reference": reference,
            "labelled": tree,
            "scores": tmp_path / "scores",
        }
        verify.run(inputs=inputs, options=settings, out=tmp_path / "out")
        return Verdict.from_json(json.loads((tmp_path / "out/verdict.json").read_text()))

    return run


Judged = Callable[..., Verdict]
ANY = {"min_snr_db": -1e3, "max_error": 1e9, "reason": "to see the task's own gate"}


def test_an_honest_artifact_passes_its_task(judged: Judged) -> None:
    found = judged(truth)
    assert found.status == "passed"
    assert found.task is not None
    assert (found.task.samples, found.task.source, found.task.artifact) == (400, 0.9, 0.9)
    assert found.task.sha256 == "ab"
    assert found.reason.startswith("synthetic inputs only: ")
    assert found.reason.endswith("; " + found.task.reason)


def test_one_that_swaps_classes_fails_it(judged: Judged) -> None:
    found = judged(lambda inputs: {"y": 2 * inputs["x"][:, [1, 0, 2]]}, parity=ANY)
    assert found.status == "failed"
    assert found.task is not None
    assert found.reason == found.task.reason
    assert found.reason.startswith("top-1 is 3")


def test_what_fails_by_its_numbers_stays_failed(judged: Judged) -> None:
    found = judged(lambda inputs: {"y": 3 * inputs["x"]})
    assert found.status == "failed"
    assert "limit" in found.reason
    assert "top-1" not in found.reason
    assert found.task is not None
    assert found.task.status == "passed"


def test_too_few_samples_are_unverified_in_words(judged: Judged) -> None:
    found = judged(truth, cases=lambda: labelled(20))
    assert found.status == "unverified"
    assert found.reason.startswith("top-1: 20 labelled samples cannot tell a drop of")
    assert "would, or accept a max_drop of" in found.reason


def flaky(error: Exception) -> Answer:
    """Right, but for the labelled rows of a batch of one with a great first number."""

    def answer(inputs: Arrays) -> Arrays:
        if len(inputs["x"]) == 1 and 0.9 < inputs["x"][0, 0] < 0.95:
            raise error
        return truth(inputs)

    return answer


def test_an_artifact_that_cannot_run_a_labelled_sample_fails(judged: Judged) -> None:
    found = judged(flaky(RuntimeError("boom")))
    assert (found.status, found.task) == ("failed", None)
    assert "its runtime fails on labelled sample 'real" in found.reason


def test_what_its_runtime_does_not_know_is_unverified(judged: Judged) -> None:
    found = judged(flaky(Unproven("evaluator has no fft")))
    assert (found.status, found.task) == ("unverified", None)
    assert found.reason.endswith("evaluator has no fft")


def test_an_artifact_whose_answer_cannot_be_scored_fails(judged: Judged) -> None:
    def nan(inputs: Arrays) -> Arrays:
        return {"y": truth(inputs)["y"] * np.where(inputs["x"] > 0.9, np.nan, 1)}

    cases = lambda: (replace(it, label=it.arrays["x"]) for it in labelled())  # noqa: E731
    found = judged(nan, cases=cases, metric="mean-absolute-error")
    assert found.status == "failed"
    assert "it cannot be scored as the source: labelled sample 'real" in found.reason


def test_scores_are_taken_in_the_layout_of_the_source(judged: Judged) -> None:
    def cases() -> Iterator[Case]:
        random = np.random.default_rng(1)
        for index in range(100):
            image = random.uniform(-1, 1, (1, 2, 3, 4)).astype(np.float32)
            noise = random.normal(0, 0.1, image.shape)
            yield Case(
                name=f"real {index}",
                origin="real",
                arrays={"x": image},
                label=2 * image + noise,
            )

    def nearly(inputs: Arrays) -> Arrays:
        assert inputs["x"].shape == (1, 3, 4, 2)
        return {"y": 2 * inputs["x"] + np.float32(1e-6)}

    found = judged(nearly, cases=cases, signature=IMAGES, metric="mean-absolute-error")
    assert found.status == "passed", found.reason
    assert found.task is not None
    assert found.task.source == pytest.approx(-0.08, abs=0.01)
    assert abs(found.task.drop) < 1e-5


def test_a_source_that_cannot_be_scored_is_an_error(judged: Judged) -> None:
    cases = lambda: (replace(case, label=np.asarray(0.5)) for case in labelled(3))  # noqa: E731
    with pytest.raises(StageError, match="labelled sample 'real 0': a label is float64"):
        judged(truth, cases=cases)
