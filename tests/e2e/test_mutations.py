"""The gate closes: what computes something else than its source fails on every target.

Honest artifacts of the example are corrupted as a converter, a quantizer, a runtime or a disk
would, and held against their own test vectors.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from cli import CONFIG
from mutate import Constant, ModelFile, opened
from verdicts import judged

from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import Arrays
from crosscast.targets import TARGETS
from crosscast.targets.base import Session

pytestmark = pytest.mark.e2e

RUNNABLE = [name for name in yaml.safe_load(CONFIG.read_text())["targets"] if "coreml" not in name]
CLASSES = 1000
MIDDLE = 17  # of 34 layers; a linear one, with no activation to hide what it computes
LAST = -1

Corrupt = Callable[[ModelFile], None]


def of(*precisions: str) -> list[str]:
    """The targets of those precisions."""
    return [name for name in RUNNABLE if TARGETS[name].precision_asked in precisions]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a corrupted file goes; megabytes each, so none outlives its test."""
    made = tmp_path / "artifact"
    made.mkdir()
    yield made
    shutil.rmtree(made)


def corrupted(honest: Path, folder: Path, corrupt: Corrupt) -> Verdict:
    file = opened(honest)
    corrupt(file)
    file.save(folder)
    return judged(honest, folder)


# --- no false alarm --------------------------------------------------------------------------


@pytest.mark.parametrize("target", RUNNABLE)
def test_an_honest_artifact_passes(built: Path, target: str) -> None:
    assert judged(built / target, built / target).status == "passed"


@pytest.mark.parametrize("target", RUNNABLE)
def test_a_file_that_was_only_read_and_written_passes(
    built: Path, target: str, folder: Path
) -> None:
    """So what fails below fails by what was done to it."""
    assert corrupted(built / target, folder, lambda _: None).status == "passed"


# --- files that compute something else ---------------------------------------------------------


def bits(array: np.ndarray) -> np.ndarray:
    """The array's items as flat unsigned integers, to be changed in place."""
    return array.reshape(-1).view(f"u{array.dtype.itemsize}")


def flipped(bit: int, which: slice) -> Corrupt:
    """A bit of weights of the middle layer flipped; 1 is the sign, 2 the one below it."""

    def corrupt(file: ModelFile) -> None:
        weight = file.layers[MIDDLE].weight
        array = weight.read()
        bits(array)[which] ^= bits(array).dtype.type(1 << (8 * array.dtype.itemsize - bit))
        weight.write(array)

    return corrupt


def changed(constant: Callable[[ModelFile], Constant | None], change: Any) -> Corrupt:
    """A constant of the file put through a function."""

    def corrupt(file: ModelFile) -> None:
        found = constant(file)
        assert found is not None
        found.write(np.ascontiguousarray(change(found.read())))

    return corrupt


def one_weight(value: float, layer: int = MIDDLE) -> Corrupt:
    """One weight set to a value."""

    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[array.size // 2] = value
        return array

    return changed(lambda file: file.layers[layer].weight, change)


def middle_weight(file: ModelFile) -> Constant:
    return file.layers[MIDDLE].weight


def swapped(array: np.ndarray) -> np.ndarray:
    """Neighbouring output channels in each other's place."""
    order = np.arange(len(array)).reshape(-1, 2)[:, ::-1].reshape(-1)
    return np.asarray(array[order])


def bgr(file: ModelFile) -> None:
    """The first convolution's input channels reversed."""
    first = file.layers[0]
    first.weight.write(np.ascontiguousarray(np.flip(first.weight.read(), first.inputs)))


def normalised(factor: Sequence[float], offset: Sequence[float]) -> Corrupt:
    """Another preprocessing than the network was trained with, as factors on its own."""
    return lambda file: file.scale_input(np.array(factor), np.array(offset))


MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

EVERYWHERE: dict[str, Corrupt] = {
    "signs of a tenth of a layer": flipped(1, slice(None, None, 10)),
    "signs of a hundredth of a layer": flipped(1, slice(None, None, 100)),
    "a layer's bias zeroed": changed(lambda file: file.layers[MIDDLE].bias, np.zeros_like),
    "the first bias zeroed": changed(lambda file: file.layers[0].bias, np.zeros_like),
    "a layer zeroed": changed(middle_weight, np.zeros_like),
    "output channels swapped": changed(middle_weight, swapped),
    "BGR for RGB": bgr,
    "one pixel off": lambda file: file.shift_input(),
    "range 0 to 1": normalised([0.5] * 3, [0.5] * 3),
    "range 0 to 255": normalised([127.5] * 3, [127.5] * 3),
    "normalised by mean and deviation": normalised(0.5 / DEVIATION, (0.5 - MEAN) / DEVIATION),
    "zero output": lambda file: file.scale_output(0),
    "negative output": lambda file: file.scale_output(-1),
    "classes one off": lambda file: file.pick_outputs([*range(1, CLASSES), 0]),
    "classes reversed": lambda file: file.pick_outputs(range(CLASSES)[::-1]),
}
QUANTIZED: dict[str, Corrupt] = {
    "scales of a layer too wide": changed(
        lambda file: file.layers[MIDDLE].scales, lambda scales: scales * np.float32(1.5)
    ),
    "scales of the last layer too wide": changed(
        lambda file: file.layers[LAST].scales, lambda scales: scales * np.float32(1.5)
    ),
    "scales of a layer in another order": changed(
        lambda file: file.layers[MIDDLE].scales, lambda scales: scales[::-1]
    ),
}
UNQUANTIZED: dict[str, Corrupt] = {
    "top exponent bit of a weight": flipped(2, slice(40, 41)),
    "the last bias zeroed": changed(lambda file: file.layers[LAST].bias, np.zeros_like),
    "a tenth less": lambda file: file.scale_output(0.9),
    "two classes swapped": lambda file: file.pick_outputs([1, 0, *range(2, CLASSES)]),
}
"""What costs this network's logits less than int8 may, or hardly more."""
SINGLE: dict[str, Corrupt] = {
    "sign of one weight": flipped(1, slice(40, 41)),
    "128 for 127.5": normalised([127.5 / 128] * 3, [-0.5 / 128] * 3),
}
"""What costs them less than float16 may."""
CORRUPTIONS = [
    pytest.param(target, corrupt, id=f"{target}-{name}")
    for targets, table in (
        (RUNNABLE, EVERYWHERE),
        (of("int8"), QUANTIZED),
        (of("fp32", "fp16"), UNQUANTIZED),
        (of("fp32"), SINGLE),
    )
    for target in targets
    for name, corrupt in table.items()
]


HOLES = [
    pytest.param(
        target,
        UNQUANTIZED[name],
        marks=pytest.mark.xfail(strict=True, reason="its error is as small as int8's own"),
        id=f"{target}-{name}",
    )
    for target in of("int8")
    for name in ("the last bias zeroed", "a tenth less")
]
"""What the gate is known to let by, though it is wrong."""


@pytest.mark.parametrize(("target", "corrupt"), CORRUPTIONS + HOLES)
def test_a_file_that_computes_something_else_fails(
    built: Path, target: str, corrupt: Corrupt, folder: Path
) -> None:
    found = corrupted(built / target, folder, corrupt)
    assert found.status == "failed"
    # the audit may have seen it, too, and speaks first
    assert "\noutput 'logits', case '" in f"\n{found.reason}", found.reason
    assert "the limit is" in found.reason or "nan at" in found.reason


@pytest.mark.parametrize("target", of("fp32", "fp16"))
@pytest.mark.parametrize("layer", [MIDDLE, LAST])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_fails(
    built: Path, target: str, layer: int, value: float, folder: Path
) -> None:
    found = corrupted(built / target, folder, one_weight(value, layer))
    assert found.status == "failed"
    row = found.worst["logits"]
    assert "where the source gives" in row.numbers.problem
    assert row.numbers.problem in found.reason


# --- files with another interface --------------------------------------------------------------

INTERFACES: dict[str, tuple[Corrupt, str]] = {
    "NHWC for NCHW": (
        lambda file: file.declare_nhwc(),
        r"input 'image' is declared with shape \(\w+, 224, 224, 3\), expected \(batch, 3,",
    ),
    "fixed batch": (
        lambda file: file.fix_batch(),
        r"input 'image' is declared with shape \(1, 3, 224, 224\), expected \(batch, 3,",
    ),
    "float16 output": (
        lambda file: file.halve_output(),
        "output 'logits' is declared float16, the source has float32",
    ),
    "output renamed": (
        lambda file: file.rename("output", "scores"),
        r"declares the outputs \['scores'\], the source has \['logits'\]",
    ),
    "input renamed": (
        lambda file: file.rename("input", "x"),
        r"declares the inputs \['x'\], the source has \['image'\]",
    ),
    "an output more": (
        lambda file: file.add_output("more"),
        r"declares the outputs \['logits', 'more'\], the source has \['logits'\]",
    ),
    "no output": (
        lambda file: file.drop_output(),
        r"declares the outputs \[\], the source has \['logits'\]",
    ),
}


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", INTERFACES)
def test_a_file_with_another_interface_fails(
    built: Path, target: str, name: str, folder: Path
) -> None:
    corrupt, reason = INTERFACES[name]
    found = corrupted(built / target, folder, corrupt)
    assert found.status == "failed"
    assert re.search(reason, found.reason), found.reason


# --- runtimes that answer wrongly --------------------------------------------------------------

Run = Callable[[Arrays], Arrays]


class Wrapped:
    """A real session whose answers are changed."""

    def __init__(self, session: Session, answer: Callable[[np.ndarray, list[Any]], Any]) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self.session, self.answer = session, answer
        self.before: list[np.ndarray] = []

    def run(self, inputs: Arrays) -> Any:
        given = self.session.run(inputs)["logits"]
        self.before.append(given)
        return {"logits": self.answer(given, self.before)}


def one_element(value: float) -> Callable[[np.ndarray, list[Any]], Any]:
    def answer(given: np.ndarray, _: list[Any]) -> np.ndarray:
        given = given.copy()
        given[-1, -1] = value
        return given

    return answer


def softmax(given: np.ndarray, _: list[Any]) -> np.ndarray:
    powers = np.exp(given - given.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def lagging(given: np.ndarray, before: list[Any]) -> np.ndarray:
    return np.asarray(np.resize(before[max(len(before) - 2, 0)], given.shape))


ANSWERS: dict[str, tuple[Callable[[np.ndarray, list[Any]], Any], str]] = {
    "one NaN": (one_element(np.nan), "nan at (0, 999) where the source gives"),
    "one infinity": (one_element(np.inf), "inf at (0, 999) where the source gives"),
    "probabilities for logits": (softmax, "snr_db is"),
    "always the first answer": (lambda y, seen: np.resize(seen[0], y.shape), "snr_db is"),
    "the answer before": (lagging, "snr_db is"),
    "the first row for every row": (lambda y, _: np.repeat(y[:1], len(y), 0), "swept batch"),
    "rows reversed": (lambda y, _: y[::-1], "swept batch"),
    "the first row only": (lambda y, _: y[:1], "shape (1, 1000) where the source gives"),
    "no batch": (lambda y, _: y[0], "shape (1000,) where the source gives (1, 1000)"),
    "float64": (lambda y, _: y.astype(float), "dtype float64 where the source gives float32"),
    "half of the classes": (lambda y, _: y[:, :500], "shape (1, 500) where the source gives"),
    "nothing": (lambda y, _: None, "its runtime fails|dtype object|shape ()"),
}


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_runtime_that_answers_wrongly_fails(
    built: Path, target: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, said = ANSWERS[name]
    module = ModuleType("wrapped")
    real = TARGETS[target].open
    module.open = lambda *, artifact: Wrapped(real(artifact=artifact), answer)  # type: ignore[attr-defined,arg-type]
    monkeypatch.setitem(sys.modules, "wrapped", module)
    found = judged(built / target, built / target, open="wrapped:open")
    assert found.status == "failed"
    assert any(part in found.reason for part in said.split("|")), found.reason


# --- the precision that was asked for ----------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (held, asked)
        for held in RUNNABLE
        for asked in RUNNABLE
        if held != asked and TARGETS[held].format == TARGETS[asked].format
    ],
)
def test_another_precision_than_was_asked_for_fails(built: Path, held: str, asked: str) -> None:
    found = judged(built / asked, built / held)
    precisions = [TARGETS[name].precision_asked for name in (asked, held)]
    assert found.status == "failed"
    assert "{} was asked for, {} was delivered (weights: ".format(*precisions) in found.reason


# --- files that are none ------------------------------------------------------------------------


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_truncated_file_fails(built: Path, target: str, kept: float, folder: Path) -> None:
    model = next((built / target).glob("model.*"))
    content = model.read_bytes()
    (folder / model.name).write_bytes(content[: int(kept * len(content))])
    found = judged(built / target, folder)
    assert found.status == "failed"
    assert "does not load" in found.reason
