"""The gate itself, by mutation: it must open to honest rounding and close to everything else.

The artifact is a small convolutional network in numpy, opened through the verify stage like any
other; each mutation is a defect that converters really have.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from asked import asked
from numpy.typing import NDArray

from crosscast.pipeline.parity.given import real_case
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.parity.vectors import Vector
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor, permute
from crosscast.pipeline.stages.verify import verify
from crosscast.targets.base import Precision

PRECISIONS = ("fp32", "fp16", "int8")
SIGNATURE = Signature(
    inputs=(
        Tensor(
            name="image", shape=("batch", 3, 8, 8), dtype="float32", layout="nchw", range=(-1, 1)
        ),
    ),
    outputs=(
        Tensor(name="features", shape=("batch", 6, 6, 6), dtype="float32", layout="nchw"),
        Tensor(name="logits", shape=("batch", 5), dtype="float32"),
        Tensor(name="scores", shape=("batch", 5), dtype="float32"),
        Tensor(name="label", shape=("batch",), dtype="int64"),
    ),
    dims={"batch": (1, 4)},
)
RANDOM = np.random.default_rng(7)
WEIGHTS = {
    "conv": RANDOM.normal(0, 0.4, (6, 3, 3, 3)).astype(np.float32),
    "bias": RANDOM.normal(0, 0.1, 6).astype(np.float32),
    "dense": RANDOM.normal(0, 0.15, (216, 5)).astype(np.float32),
}
PHOTOS = [
    np.clip(
        RANDOM.normal(0, 0.3, (1, 3, 1, 1)) + RANDOM.normal(0, 0.4, (1, 3, 8, 8)), -1, 1
    ).astype(np.float32)
    for _ in range(6)
]

Change = Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


def fake_int8(array: NDArray[Any]) -> NDArray[Any]:
    step = np.abs(array).max() / 127 or 1.0
    return (np.round(array / step) * step).astype(array.dtype)


def half(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float16).astype(array.dtype)


@dataclass(frozen=True, kw_only=True)
class Net:
    """A session. `store` rounds weights and activations; the others are places for a defect."""

    layout: Layout = "nchw"
    weights: dict[str, NDArray[Any]] = field(default_factory=lambda: dict(WEIGHTS))
    store: Change = same
    image: Change = same
    features: Change = same
    answer: Change = same
    declare: Change = same

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return SIGNATURE.permuted(self.layout).inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.declare(SIGNATURE.permuted(self.layout).outputs)
        return outputs

    def run(self, inputs: Arrays) -> Arrays:
        own = permute(inputs, tensors=self.inputs, layout="nchw")
        image = self.image(self.store(own["image"]))
        weights = {name: self.store(value) for name, value in self.weights.items()}
        windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(2, 3))
        conv = np.einsum("bchwij,ocij->bohw", windows, weights["conv"], dtype=np.float32)
        features = self.store(np.maximum(conv + weights["bias"][:, None, None], 0))
        logits = self.store(features.reshape(len(image), -1) @ weights["dense"])
        power = np.exp(logits - logits.max(-1, keepdims=True))
        outputs = {
            "features": self.features(features),
            "logits": logits,
            "scores": power / power.sum(-1, keepdims=True),
            "label": logits.argmax(-1),
        }
        inputs["image"][:] = np.nan  # as runtimes do that work in place
        answer: Arrays = self.answer(
            permute(outputs, tensors=SIGNATURE.outputs, layout=self.layout)
        )
        return answer


def vectors() -> Iterator[Vector]:
    real = (real_case(photo, signature=SIGNATURE, index=i) for i, photo in enumerate(PHOTOS))
    for case in parity_cases(real, signature=SIGNATURE):
        given = {"image": case.arrays["image"].copy()}
        yield Vector(case=case, outputs=Net().run(given))


def gate(net: Net, precision: str, monkeypatch: pytest.MonkeyPatch, delivered: str = "") -> Verdict:
    target = ModuleType("fake_target")
    target.open = lambda **_: net  # type: ignore[attr-defined]
    held = Precision(delivered=delivered or precision, weights={"x": 1})  # type: ignore[arg-type]
    target.precision = lambda **_: held  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_target", target)
    options = asked(precision_asked=precision, layout=net.layout)
    return verify(artifact=Path("x"), signature=SIGNATURE, vectors=vectors, options=options)


def weights(name: str, change: Change) -> Net:
    return Net(weights={**WEIGHTS, name: change(WEIGHTS[name])})


def outputs(name: str, change: Change) -> Net:
    return Net(answer=lambda found: {**found, name: change(found[name])})


def poisoned(value: float) -> Change:
    def poison(array: NDArray[Any]) -> NDArray[Any]:
        array = array.copy()
        array.flat[-1] = value
        return array

    return poison


def without(name: str) -> Change:
    return lambda found: {key: value for key, value in found.items() if key != name}


def renamed(found: Arrays) -> Arrays:
    return {("Identity" if key == "logits" else key): value for key, value in found.items()}


def one_row(found: Arrays) -> Arrays:
    """As where a batch of 1 was baked in and the rest is padding."""
    return {key: np.repeat(value[:1], len(value), axis=0) for key, value in found.items()}


def refuses_batches(found: Arrays) -> Arrays:
    if len(found["logits"]) > 1:
        raise RuntimeError("Got invalid dimensions for input: image index: 0 Got: 3 Expected: 1")
    return found


MUTATIONS: dict[str, Net] = {
    "flipped weights": weights("conv", lambda w: -w),
    "flipped kernel": weights("conv", lambda w: w[:, :, ::-1, ::-1]),
    "flipped dense weights": weights("dense", lambda w: -w),
    "transposed kernel": weights("conv", lambda w: w.swapaxes(2, 3)),
    "zero weights": weights("conv", np.zeros_like),
    "one filter lost": weights("conv", lambda w: w * (np.arange(6) != 2)[:, None, None, None]),
    "swapped output channels": weights("conv", lambda w: w[[1, 0, 2, 3, 4, 5]]),
    "swapped input channels": Net(image=lambda x: x[:, ::-1]),
    "NHWC read as NCHW": Net(image=lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape)),
    "NHWC written as NCHW": Net(features=lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape)),
    "height and width swapped": Net(image=lambda x: x.swapaxes(2, 3)),
    "off-by-one crop": Net(
        image=lambda x: np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))[..., 1:, 1:]
    ),
    "wrong mean": Net(image=lambda x: x + 0.5),
    "wrong scale": Net(image=lambda x: x / 255),
    "preprocessed twice": Net(image=lambda x: (x - 0.45) / 0.225),
    "no ReLU": Net(features=lambda x: x - 0.3),
    "NaN in one element": outputs("logits", poisoned(np.nan)),
    "infinity in one element": outputs("logits", poisoned(np.inf)),
    "all NaN": outputs("scores", lambda x: np.full_like(x, np.nan)),
    "zero output": outputs("logits", np.zeros_like),
    "constant output": outputs("logits", np.ones_like),
    "first row for all": Net(answer=one_row),
    "permuted classes": outputs("logits", lambda x: x[:, ::-1]),
    "logits for scores": Net(answer=lambda found: {**found, "scores": found["logits"]}),
    "swapped outputs": Net(
        answer=lambda found: {**found, "logits": found["scores"], "scores": found["logits"]}
    ),
    "wrong labels": outputs("label", lambda x: (x + 1) % 5),
    "wrong dtype": outputs("logits", lambda x: x.astype(np.float64)),
    "wrong integer dtype": outputs("label", lambda x: x.astype(np.int32)),
    "lost batch dimension": outputs("logits", lambda x: x.reshape(-1)),
    "missing output": Net(answer=without("scores")),
    "renamed output": Net(answer=renamed),
    "extra output": Net(answer=lambda found: {**found, "debug": found["logits"]}),
    "another order of outputs": Net(answer=lambda found: dict(reversed(found.items()))),
    "declared in another order": Net(declare=lambda tensors: tensors[::-1]),
    "declared without an output": Net(declare=lambda tensors: tensors[1:]),
    "declared with another dtype": Net(
        declare=lambda tensors: (replace(tensors[0], dtype="float16"), *tensors[1:])
    ),
    "declared with a fixed batch": Net(
        declare=lambda tensors: (replace(tensors[0], shape=(1, 6, 6, 6)), *tensors[1:])
    ),
    "refuses batches": Net(answer=refuses_batches),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_gate_closes(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = gate(MUTATIONS[name], precision, monkeypatch)
    assert verdict.status == "failed"
    assert verdict.reason


HONEST: dict[str, tuple[Change, tuple[str, ...]]] = {
    "the same": (same, PRECISIONS),
    "rounded to float16": (half, ("fp16", "int8")),
    # Numbers alone do not tell int8 weights from fp16: that is the precision audit's to see.
    "rounded to int8": (fake_int8, ("fp16", "int8")),
}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", HONEST)
def test_the_gate_opens_to_honest_rounding(
    name: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, precisions = HONEST[name]
    for precision in PRECISIONS:
        verdict = gate(Net(store=store, layout=layout), precision, monkeypatch)
        expected = "passed" if precision in precisions else "failed"
        assert verdict.status == expected, f"{precision}: {verdict.reason}"


def test_reordered_sums_pass_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = Net(features=lambda x: x * np.float32(1 + 1e-6))
    verdict = gate(noisy, "fp32", monkeypatch)
    assert verdict.status == "passed"
    assert verdict.inputs == "6 real, 2 swept, 6 adversarial"


def test_the_precision_that_was_delivered_sets_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = gate(Net(), "fp16", monkeypatch, delivered="fp32")
    assert verdict.status == "failed"
    assert "fp16 was asked for, fp32 was delivered" in verdict.reason
    assert verdict.tolerance.min_snr_db == 80


def test_a_refused_batch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = gate(MUTATIONS["refuses batches"], "fp32", monkeypatch).reason
    assert (
        "case 'swept batch=3' and 7 more: its runtime fails: RuntimeError: Got invalid dim"
        in reason
    )
