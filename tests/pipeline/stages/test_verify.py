from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from asked import asked

from crosscast.pipeline.errors import StageError, ToolchainError, Unproven
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.conditioning import noise, rounded
from crosscast.pipeline.parity.gains import Weight
from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.parity.tolerance import TOLERANCES
from crosscast.pipeline.parity.vectors import Vector, write_vectors
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.pipeline.stages.verify import run
from crosscast.targets.base import ADVICE, NOTES, SAID, Computing, Precision

SIGNATURE = Signature(
    inputs=(
        Tensor(name="a", shape=("batch", 4), dtype="float32"),
        Tensor(name="b", shape=("batch", 4), dtype="float32"),
    ),
    outputs=(Tensor(name="y", shape=("batch", 4), dtype="float32"),),
    dims={"batch": (1, 4)},
)


class Session:
    def __init__(self, answer: Callable[[Arrays], Any], signature: Signature = SIGNATURE) -> None:
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self.answer = answer

    def run(self, inputs: Arrays) -> Any:
        return self.answer(inputs)


def truth(inputs: Arrays) -> Arrays:
    return {"y": inputs["a"] - 2 * inputs["b"]}


def verdict(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: Callable[[], Any] = lambda: Session(truth),
    source: Callable[[Arrays], Arrays] = truth,
    is_rounded: bool = False,
    real: Sequence[Case] = (),
    held: Precision | None = None,
    inputs: Mapping[str, Path] | None = None,
    **options: Any,
) -> Verdict:
    reference = tmp_path / "reference"
    reference.mkdir()
    cases = parity_cases(real, signature=SIGNATURE)
    write_vectors(reference, (vector(case, source, is_rounded) for case in cases))
    write_json(reference / "signature.json", SIGNATURE.to_json())
    target = ModuleType("fake_target")
    target.open = lambda **_: opened()  # type: ignore[attr-defined]
    held = held or Precision(delivered="fp32", weights={"float32": 8})
    target.precision = lambda **_: held  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_target", target)
    settings = asked(**options)
    given = {"model": tmp_path, "reference": reference, **(inputs or {})}
    run(inputs=given, options=settings, out=tmp_path / "out")
    return Verdict.from_json(json.loads((tmp_path / "out/verdict.json").read_text()))


def vector(case: Case, source: Callable[[Arrays], Arrays], is_rounded: bool) -> Vector:
    outputs = source(case.arrays)
    if not is_rounded or case.origin != "adversarial":
        return Vector(case=case, outputs=outputs)
    again = source(rounded(case.arrays, precision="fp32", seed=0))
    return Vector(case=case, outputs=outputs, noise={"fp32": noise(outputs, again)})


def test_an_honest_artifact_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verdict(tmp_path, monkeypatch)
    assert found.status == "passed"
    assert found.reason.startswith("synthetic inputs only: 3 synthetic, 5 adversarial")
    assert found.audit.weights == {"float32": 8}


def test_operators_are_counted_and_those_that_fell_back_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Precision(
        delivered="int8",
        operators=(
            Computing(name="a", operator="Conv", arithmetic="fp32", stored="fp32", size=10),
            Computing(name="b", operator="Conv", arithmetic="fp32", stored="fp32", size=20),
            Computing(name="c", operator="Gemm", arithmetic="fp32", stored="int8", size=70),
            Computing(name="d", operator="Gemm", arithmetic="int8", stored="int8", size=100),
            Computing(name="e", operator="MatMul", arithmetic="fp32"),
        ),
    )
    audit = verdict(tmp_path, monkeypatch, held=held, precision_asked="int8").audit
    assert audit.ops == {"fp32": 3, "int8": 1, "int8 weights": 1}
    assert [(entry.name, entry.share) for entry in audit.fell_back] == [("b", 0.1), ("a", 0.05)]


@pytest.mark.parametrize(("factor", "status"), [(1.0, "passed"), (1.25, "failed")])
def test_weights_are_held_against_what_they_were_quantized_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, status: str
) -> None:
    floats = np.linspace(-1, 1, 128)
    its = {"model": Weight("w", floats * factor, np.full(1, 0.01)), "floats": Weight("w", floats)}
    target = ModuleType("fake_weights")
    target.read = lambda artifact: [its[artifact.name]]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_weights", target)
    more = {name: tmp_path / name for name in its}
    found = verdict(tmp_path, monkeypatch, inputs=more, weights="fake_weights:read")
    assert found.status == status
    assert ("'w' is 1.25 times as large" in found.reason) == (status == "failed")


def test_bad_parameters_fail_an_artifact_that_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Precision(delivered="fp32", problems=("'w' has the scale nan",))
    found = verdict(tmp_path, monkeypatch, held=held)
    assert (found.status, found.reason) == ("failed", "'w' has the scale nan")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("ant", "bee"), ""),
        (("bee", "ant"), "the artifact calls class 0 'bee', not 'ant'"),
        ((), "the artifact names 0 classes, the config 2"),
    ],
)
def test_classes_have_the_names_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: tuple[str, ...], said: str
) -> None:
    named = Session(truth)
    named.labels = labels  # type: ignore[attr-defined]
    found = verdict(tmp_path, monkeypatch, lambda: named, labels=["ant", "bee"])
    assert found.status == ("failed" if said else "passed")
    assert said in found.reason


def test_limits_of_the_user_land_in_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = Session(lambda inputs: {"y": truth(inputs)["y"] * np.float32(1.001)})
    parity = {"min_snr_db": 50.0, "max_error": 0.01, "reason": "measured"}
    found = verdict(tmp_path, monkeypatch, lambda: noisy, parity=parity)
    assert found.status == "passed"
    assert found.tolerance.override == "measured"


def test_no_runtime_is_unverified_but_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verdict(tmp_path, monkeypatch, no_runtime="no Core ML runtime on this host")
    assert (found.status, found.reason) == ("unverified", "no Core ML runtime on this host")


def test_no_runtime_does_not_hide_a_wrong_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verdict(tmp_path, monkeypatch, no_runtime="none", precision_asked="fp16")
    assert found.status == "failed"


def lacking(_: object = None) -> Session:
    raise Unproven("evaluator has no fft")


@pytest.mark.parametrize("opened", [lacking, lambda: Session(lacking)], ids=["opening", "running"])
def test_what_a_runtime_does_not_know_is_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[], Session]
) -> None:
    found = verdict(tmp_path, monkeypatch, opened)
    assert (found.status, found.reason) == ("unverified", "evaluator has no fft")


def test_what_computes_instead_of_the_runtime_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(truth)
    session.remark = "computed by another"  # type: ignore[attr-defined]
    found = verdict(tmp_path, monkeypatch, lambda: session)
    assert found.status == "passed"
    assert found.reason.endswith("; computed by another")


@pytest.mark.parametrize(
    ("opened", "key", "status"),
    [(lambda: Session(truth), SAID, "passed"), (lambda: Session(nearly), ADVICE, "failed")],
)
def test_what_the_makers_have_to_say_is_told_with_the_verdict(
    opened: Any, key: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NOTES).write_text(json.dumps({SAID: "said so", ADVICE: "try so"}))
    found = verdict(tmp_path, monkeypatch, opened)
    assert found.status == status
    assert found.reason.endswith("said so" if key == SAID else "try so")


def test_a_target_that_opens_nothing_is_unverified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdict(tmp_path, monkeypatch, lambda: None).status == "unverified"


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [RuntimeError("bad\nmodel"), StageError("custom op", fix="x"), KeyError("x")]
)
def test_an_artifact_that_does_not_load_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    found = verdict(tmp_path, monkeypatch, raising(error))
    assert found.status == "failed"
    assert found.reason.startswith("the artifact does not load in its runtime: ")
    assert "\n" not in found.reason


@pytest.mark.parametrize("error", [ToolchainError("x"), ImportError("x"), MemoryError()])
def test_what_is_not_the_artifacts_fault_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error)):
        verdict(tmp_path, monkeypatch, raising(error))


@pytest.mark.parametrize(
    "answer",
    [raising(RuntimeError("boom")), lambda _: None, lambda _: {}, lambda _: {"y": None}],
)
def test_an_artifact_that_does_not_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]
) -> None:
    found = verdict(tmp_path, monkeypatch, lambda: Session(answer))
    assert found.status == "failed"
    assert "case 'synthetic 0 batch=1'" in found.reason


def test_a_constant_reference_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(inputs: Arrays) -> Arrays:
        return {"y": np.ones_like(inputs["a"])}

    found = verdict(tmp_path, monkeypatch, lambda: Session(constant), constant)
    assert found.status == "unverified"
    assert "hardly vary" in found.reason


def changed(side: str, **change: Any) -> Signature:
    tensors = getattr(SIGNATURE, side)
    return replace(SIGNATURE, **{side: (replace(tensors[0], **change), *tensors[1:])})


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (changed("inputs", name="c"), "declares the inputs ['c', 'b'], the source has ['a', 'b']"),
        (replace(SIGNATURE, inputs=SIGNATURE.inputs[::-1]), "declares the inputs ['b', 'a']"),
        (changed("inputs", dtype="int8"), "input 'a' is declared int8, the source has float32"),
        (changed("inputs", shape=(1, 4)), "input 'a' is declared with shape (1, 4), expected (b"),
        (changed("inputs", shape=("n", 5)), "input 'a' is declared with shape (n, 5)"),
        (changed("inputs", shape=("n",)), "input 'a' is declared with shape (n)"),
        (changed("outputs", name="z"), "declares the outputs ['z']"),
        (changed("outputs", shape=(1, 4)), "output 'y' is declared with shape (1, 4)"),
    ],
)
def test_what_the_artifact_declares_must_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: Signature, expected: str
) -> None:
    found = verdict(tmp_path, monkeypatch, lambda: Session(truth, declared))
    assert found.status == "failed"
    assert expected in found.reason


def test_a_declared_shape_may_take_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = changed("inputs", shape=("n", "m"))
    assert verdict(tmp_path, monkeypatch, lambda: Session(truth, wide)).status == "passed"


def quantized(scale: float, *, answer: Callable[[Arrays], Arrays] = truth) -> Session:
    """A session of int8 inputs and outputs that computes `answer` on what they stand for."""

    def told(tensor: Tensor) -> Tensor:
        return replace(tensor, dtype="int8", quantization=(0.01, 0))

    def run(inputs: Arrays) -> Arrays:
        real = {name: (array * 0.01).astype(np.float32) for name, array in inputs.items()}
        return {
            name: np.rint(array / scale).astype(np.int8) for name, array in answer(real).items()
        }

    signature = replace(SIGNATURE, inputs=tuple(map(told, SIGNATURE.inputs)))
    output = replace(SIGNATURE.outputs[0], dtype="int8", quantization=(scale, 0))
    return Session(run, replace(signature, outputs=(output,)))


def test_quantized_inputs_and_outputs_are_compared_as_what_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = {"min_snr_db": 17.0, "max_error": 0.2, "reason": "as int8"}
    found = verdict(tmp_path, monkeypatch, lambda: quantized(0.03), io="int8", parity=loose)
    assert found.status == "passed", found.reason
    assert found.quantization == {"a": (0.01, 0), "b": (0.01, 0), "y": (0.03, 0)}


def test_a_quantized_artifact_that_computes_something_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = {"min_snr_db": 17.0, "max_error": 0.2, "reason": "as int8"}
    wrong = lambda inputs: {"y": inputs["b"] - 2 * inputs["a"]}  # noqa: E731
    found = verdict(
        tmp_path, monkeypatch, lambda: quantized(0.03, answer=wrong), io="int8", parity=loose
    )
    assert found.status == "failed"


def test_int8_that_nobody_asked_for_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verdict(tmp_path, monkeypatch, lambda: quantized(0.03))
    assert found.status == "failed"
    assert "input 'a' is declared int8, the source has float32" in found.reason


def amplifying(inputs: Arrays) -> Arrays:
    """What is left of a constant row is its rounding error, at full size, and nothing of others."""
    rest = inputs["a"].astype(np.float64) - np.median(inputs["a"], axis=-1, keepdims=True)
    scale = np.maximum(np.abs(rest).max(axis=-1, keepdims=True), 1e-9)
    return {"y": (rest / scale).astype(np.float32)}


def nearly(inputs: Arrays) -> Arrays:
    """The same as another library computes it."""
    shift = np.array([1.0, -1.0, 1.0, -1.0]) * 2.0**-24
    return amplifying({"a": inputs["a"].astype(np.float64) * (1 + shift)})


def test_cases_where_the_source_amplifies_rounding_are_not_judged_by_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verdict(
        tmp_path, monkeypatch, lambda: Session(nearly), source=amplifying, is_rounded=True
    )
    assert found.status == "passed"
    assert "not judged by numbers: 'adversarial least'" in found.reason
    loose = {row.case for row in found.rows if not row.gated}
    assert loose <= {"adversarial least", "adversarial greatest"}


def test_without_that_measurement_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verdict(tmp_path, monkeypatch, lambda: Session(nearly), source=amplifying)
    assert found.status == "failed"


def test_a_wrong_answer_fails_on_the_other_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Session(lambda inputs: {"y": -amplifying(inputs)["y"]})
    found = verdict(tmp_path, monkeypatch, lambda: wrong, source=amplifying, is_rounded=True)
    assert found.status == "failed"


def samples(count: int) -> list[Case]:
    random = np.random.default_rng(5)
    return [
        Case(
            name=f"real {index}",
            origin="real",
            arrays={name: random.normal(size=(1, 4)).astype(np.float32) for name in "ab"},
            dims={"batch": 1},
        )
        for index in range(count)
    ]


class Counting(Session):
    """Keeps how many rows it was run with, run by run."""

    def __init__(self, answer: Callable[[Arrays], Any]) -> None:
        super().__init__(answer)
        self.rows: list[int] = []

    def run(self, inputs: Arrays) -> Any:
        self.rows.append(len(inputs["a"]))
        return super().run(inputs)


def centred(inputs: Arrays) -> Arrays:
    """Each row by how it differs from the mean of the batch."""
    found = truth(inputs)["y"]
    return {"y": found - found.mean(0) / 2}


def test_real_cases_are_run_in_batches_but_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Counting(truth)
    found = verdict(tmp_path, monkeypatch, lambda: session, real=samples(10))
    assert found.status == "passed", found.reason
    assert session.rows[:4] == [1, 4, 4, 1]
    assert [row.case for row in found.rows[:10]] == [f"real {index}" for index in range(10)]


def test_a_case_that_is_wrong_in_a_batch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = samples(10)
    odd = cases[6].arrays["a"][0, 0]

    def wrong(inputs: Arrays) -> Arrays:
        return {"y": np.where((inputs["a"] == odd).any(1, keepdims=True), 0, truth(inputs)["y"])}

    found = verdict(tmp_path, monkeypatch, lambda: Session(wrong), real=cases)
    assert found.status == "failed"
    bad = [row.case for row in found.rows if (row.numbers.snr_db or 0) < 80]
    assert bad == ["real 6"]


def test_a_source_that_mixes_the_rows_of_a_batch_is_no_fault_of_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Counting(centred)
    found = verdict(tmp_path, monkeypatch, lambda: session, source=centred, real=samples(6))
    assert found.status == "passed", found.reason
    assert session.rows[-5:] == [2, 1, 1, 1, 1], "those of the batch, again and alone"


def test_an_artifact_that_mixes_them_fails_where_the_source_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # alone, every row is right
    mixing = Session(lambda inputs: centred(inputs) if len(inputs["a"]) > 1 else truth(inputs))
    found = verdict(tmp_path, monkeypatch, lambda: mixing, real=samples(6))
    assert found.status == "failed"
    assert "case 'swept batch=" in found.reason
    assert all(row.numbers.snr_db == np.inf for row in found.rows if row.origin == "real")


def test_an_artifact_that_refuses_a_batch_is_run_case_by_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def single(inputs: Arrays) -> Arrays:
        if len(inputs["a"]) > 1:
            raise RuntimeError("batch of 1 only")
        return truth(inputs)

    found = verdict(tmp_path, monkeypatch, lambda: Session(single), real=samples(6))
    assert "case 'swept batch=3' and" in found.reason
    assert sum(row.origin == "real" for row in found.rows) == 6


@pytest.mark.parametrize("snr_db", [107.0, 22.0])
def test_an_artifact_is_no_better_than_what_it_was_quantized_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snr_db: float
) -> None:
    """The same file passes behind a sound float form and fails behind another."""
    before = tmp_path / "before"
    before.mkdir()
    alone = verdict(tmp_path, monkeypatch, precision_asked="")
    assert (alone.status, alone.audit.asked) == ("passed", "fp32")
    status = "passed" if snr_db > 80 else "failed"
    reason = "" if status == "passed" else f"snr_db is {snr_db}"
    write_json(before / "verdict.json", replace(alone, status=status, reason=reason).to_json())
    trees = {"model": tmp_path, "reference": tmp_path / "reference", "before": before}
    options = asked(precision_asked="")
    found = run(inputs=trees, options=options, out=tmp_path / "chained")
    assert found.notes["status"] == status
    assert ("before quantization: snr_db is 22.0" in found.notes["reason"]) == bool(reason)


def test_a_file_may_be_held_to_the_limits_of_what_it_computes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package in fp32 weights that computes in fp16, before its weights are quantized."""
    found = verdict(tmp_path, monkeypatch, computes="fp16")
    assert found.tolerance == TOLERANCES["fp16"]
    assert found.audit.delivered == "fp32"
