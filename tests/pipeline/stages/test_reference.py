from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline import sources
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.pipeline.parity.vectors import read_reference, read_signature
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.stages.reference import run

SIGNATURE = Signature(
    inputs=(
        Tensor(name="image", shape=("batch", 3, "side", "side"), dtype="float32", layout="nchw"),
    ),
    dims={"batch": (1, 4), "side": (2, 9)},
)
SIZES = ((1, 2), (3, 5), (4, 9))


def case(batch: int, side: int) -> Case:
    image = np.random.default_rng(batch).normal(size=(batch, 3, side, side)).astype(np.float32)
    return Case(
        name=f"{batch} {side}",
        origin="real",
        arrays={"image": image},
        dims={"batch": batch, "side": side},
    )


CASES = [case(*sizes) for sizes in SIZES]


class Session:
    def __init__(self, answer: Callable[[Any], Arrays]) -> None:
        self.inputs = self.outputs = ()
        self.answer = answer

    def run(self, inputs: Arrays) -> Arrays:
        outputs = self.answer(inputs["image"])
        inputs["image"][:] = 0  # a source may work in place
        return outputs


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StageResult]:
    def run_it(
        answer: Callable[[Any], Arrays],
        cases: Iterable[Case] = CASES,
        signature: Signature = SIGNATURE,
    ) -> StageResult:
        module = ModuleType("fake_source")
        module.signature = lambda declared, **_: declared  # type: ignore[attr-defined]
        module.load = lambda **_: Session(answer)  # type: ignore[attr-defined]
        module.dependencies = lambda: ("/user/net.py",)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_source", module)
        monkeypatch.setitem(sources.SOURCES, "fake", "fake_source")  # type: ignore[arg-type]
        write_cases(cases, out=tmp_path / "samples")
        options = {
            "source": {"kind": "fake"},
            "signature": signature.to_json(),
            "outputs": None,
        }
        return run(inputs={"samples": tmp_path / "samples"}, options=options, out=tmp_path / "out")

    return run_it


def net(image: Any) -> Arrays:
    return {
        "map": image[:, :2].copy(),
        "logits": image.mean((2, 3)),
        "pairs": np.zeros((len(image), image.shape[2] * 2), np.int64),
        "total": np.float32(image.sum()),
        "mask": image > 0,
    }


def test_outputs_are_described_by_what_they_were(
    stage: Callable[..., StageResult], tmp_path: Path
) -> None:
    result = stage(net)
    assert result.dependencies == ("/user/net.py",)
    assert result.notes == {}
    outputs = read_signature(tmp_path / "out").outputs
    assert [(tensor.name, tensor.shape, tensor.dtype, tensor.layout) for tensor in outputs] == [
        ("map", ("batch", 2, "side", "side"), "float32", "nchw"),
        ("logits", ("batch", 3), "float32", None),
        ("pairs", ("batch", "pairs_dim1"), "int64", None),
        ("total", (), "float32", None),
        ("mask", ("batch", 3, "side", "side"), "bool", None),
    ]


def test_vectors_hold_untouched_inputs_and_outputs(
    stage: Callable[..., StageResult], tmp_path: Path
) -> None:
    stage(net)
    for before, vector in zip(CASES, read_reference(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(vector.case.arrays["image"], before.arrays["image"])
        assert vector.case.dims == before.dims
        np.testing.assert_array_equal(vector.outputs["map"], before.arrays["image"][:, :2])


def test_a_reused_output_buffer_is_no_trap(
    stage: Callable[..., StageResult], tmp_path: Path
) -> None:
    buffer = np.zeros(1, np.float32)

    def answer(image: Any) -> Arrays:
        buffer[0] = image.sum()
        return {"y": buffer}

    stage(answer)
    values = [float(vector.outputs["y"][0]) for vector in read_reference(tmp_path / "out")]
    assert values == [float(before.arrays["image"].sum()) for before in CASES]


def test_a_random_source_is_refused(stage: Callable[..., StageResult]) -> None:
    random = np.random.default_rng()
    with pytest.raises(StageError, match="not deterministic: output 'y' changes"):
        stage(lambda image: {"y": image + random.normal()})


def test_a_stateful_source_is_refused(stage: Callable[..., StageResult]) -> None:
    calls: list[int] = []
    with pytest.raises(StageError, match="not deterministic"):
        stage(lambda _: {"y": np.full(1, calls.append(0) or len(calls))})


def test_nan_is_deterministic_and_noted(stage: Callable[..., StageResult]) -> None:
    result = stage(lambda image: {"y": np.full(len(image), np.nan if len(image) > 1 else 0.0)})
    assert result.notes == {"non_finite": {"y": ["3 5", "4 9"]}}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda image: {"y": image} if len(image) < 3 else {"z": image}, "gives the outputs"),
        (
            lambda image: {"y": image if len(image) < 3 else image.astype(float)},
            "case '3 5' gives the outputs",
        ),
        (lambda image: {"y": image if len(image) < 3 else image[0]}, "4 dimensions|3 dimensions"),
        (lambda _: {}, "gives no output"),
        (lambda image: {"y": image.astype(complex)}, "'y' has dtype complex128"),
        (lambda _: {"y": None}, "'y' holds a NoneType"),
        (lambda image: {"y": image[3]}, r"refuses case '1 2' \(image \(1, 3, 2, 2\)\): IndexError"),
    ],
)
def test_a_bad_source_is_named(
    stage: Callable[..., StageResult], answer: Callable[[Any], Arrays], expected: str
) -> None:
    with pytest.raises(StageError, match=expected):
        stage(answer)


def test_the_first_of_equal_dims_is_taken(
    stage: Callable[..., StageResult], tmp_path: Path
) -> None:
    stage(lambda image: {"y": image}, cases=[case(2, 2), case(3, 3)])
    tensor = read_signature(tmp_path / "out").outputs[0]
    assert tensor.shape == ("batch", 3, "batch", "batch")


def test_the_tree_is_the_same_every_time(stage: Callable[..., StageResult], tmp_path: Path) -> None:
    stage(net)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(first) == {"vectors.safetensors", "cases.json", "signature.json"}
    stage(net)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
