"""The task gate on a real classifier: 700 labelled digits, honest and corrupted int8 artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import crosscast
from mutate import ModelFile, opened
from verdicts import judged

from crosscast.pipeline.config.load import load
from crosscast.pipeline.parity.samples import read_cases
from crosscast.pipeline.parity.task import Accepted, Labelled
from crosscast.pipeline.planner import plan
from crosscast.pipeline.stages import samples, score

pytestmark = pytest.mark.e2e

CONFIG = Path(__file__).parents[2] / "configs/digits.yaml"
LOOSE = {"min_snr_db": -2.0, "max_error": 2.0, "reason": "to see the task's own gate alone"}
INT8 = ("onnx-int8", "tflite-int8")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    out = tmp_path_factory.mktemp("digits")
    done = crosscast("build", CONFIG, "--out", out, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "top-1 is 92" in done.stdout
    return out / "digits/1.0.0"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """What the build judged on, by the same stages."""
    tree, scores = tmp_path_factory.mktemp("cases"), tmp_path_factory.mktemp("scores")
    steps = plan(load(CONFIG))
    samples.run(inputs={}, options=steps.step("samples task").options, out=tree)
    options = steps.step("score").options
    score.run(inputs={"labelled": tree}, options=options, out=scores)
    return Labelled(
        cases=lambda: read_cases(tree),
        source=json.loads((scores / "scores.json").read_text()),
        sha256=json.loads((tree / "labelled.json").read_text())["sha256"],
        accepted=Accepted(**options["task"], max_drop=0.02, confidence=0.95),
    )


def test_what_was_proven_is_in_the_manifest_and_told(
    digits: Path, labelled: Labelled, cache: Path
) -> None:
    for target in ("onnx", *INT8):
        task = json.loads((digits / target / "manifest.json").read_text())["verdict"]["task"]
        assert (task["status"], task["metric"], task["samples"]) == ("passed", "top-1", 700)
        assert task["source"] == pytest.approx(np.mean(labelled.source), abs=1e-4)
        assert task["source"] > 0.9
        assert task["low"] < task["drop"] < task["high"] <= task["max_drop"] == 0.02
        assert task["sha256"] == labelled.sha256
    shown = crosscast("show", digits / "onnx-int8", cache=cache).stdout
    assert "task:    passed: top-1 is" in shown
    assert labelled.sha256 in shown


def test_an_artifact_on_its_own_says_that_its_task_was_not_measured_again(
    digits: Path, cache: Path
) -> None:
    done = crosscast("verify", digits / "onnx-int8", "--json", cache=cache)
    verdict = json.loads(done.stdout)
    assert (done.returncode, verdict["status"], verdict["task"]) == (0, "passed", None)
    assert verdict["task_when_built"]["samples"] == 700
    told = "top-1 on labelled samples, not measured again, was 'passed' when it was built"
    assert verdict["reason"].endswith(f"; {told}")


def permuted(model: ModelFile) -> None:
    model.pick_outputs([1, 0, 2, 3, 4, 5, 6, 7, 8, 9])


def noisy(model: ModelFile) -> None:
    weight = model.layers[-1].weight
    values = weight.read()
    noise = np.random.default_rng(0).normal(0, 60, values.shape)
    weight.write(np.clip(np.rint(values + noise), -127, 127).astype(values.dtype))


def mutant(artifact: Path, edit: Callable[[ModelFile], None], out: Path) -> Path:
    model = opened(artifact)
    edit(model)
    model.save(out)
    return out


@pytest.mark.parametrize("target", INT8)
@pytest.mark.parametrize("edit", [permuted, noisy])
def test_a_corrupted_artifact_fails_its_task_however_loose_the_limits_of_its_numbers(
    digits: Path, labelled: Labelled, target: str, edit: Any, tmp_path: Path
) -> None:
    honest = digits / target
    found = judged(honest, honest, labelled=labelled, parity=LOOSE)
    assert found.status == "passed", found.reason
    found = judged(honest, mutant(honest, edit, tmp_path), labelled=labelled, parity=LOOSE)
    assert found.status == "failed"
    assert found.task is not None
    assert found.task.status == "failed"
    assert found.task.low is not None
    assert found.task.low > 0.02
    assert found.task.reason in found.reason
    if edit is noisy:
        assert found.reason == found.task.reason  # nothing else tells


@pytest.mark.parametrize("target", INT8)
def test_twenty_samples_prove_no_small_drop(digits: Path, labelled: Labelled, target: str) -> None:
    few = replace(labelled, cases=lambda: islice(labelled.cases(), 20), source=labelled.source[:20])
    found = judged(digits / target, digits / target, labelled=few)
    assert found.status == "unverified"
    assert found.reason.startswith("top-1: 20 labelled samples cannot tell a drop of")
    assert found.task is not None
    assert (found.task.needed or 0) > 100
