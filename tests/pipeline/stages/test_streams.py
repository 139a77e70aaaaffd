"""A model with a state through the stages: the source's own stream, and the artifact's."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from asked import asked

from crosscast.pipeline import sources
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.parity.vectors import read_reference
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import Arrays, Signature, Tensor, permute
from crosscast.pipeline.stages import reference, verify
from crosscast.targets.base import Precision

X = Tensor(name="x", shape=("batch", 3), dtype="float32", range=(-1, 1))
STATE = Tensor(
    name="h",
    shape=("batch", 3, 2, 2),
    dtype="float32",
    layout="nchw",
    range=(-9, 9),
    fed_by="left",
)
SIGNATURE = Signature(inputs=(X, STATE), dims={"batch": (1, 4)})

Answer = Callable[[Arrays], Arrays]


def running_sum(inputs: Arrays) -> Arrays:
    left = inputs["h"] + inputs["x"][:, :, None, None]
    return {"y": left.sum((2, 3)), "left": left}


def real() -> Iterator[Case]:
    random = np.random.default_rng(3)
    state = random.normal(size=(1, 3, 2, 2)).astype(np.float32)
    for index in range(5):
        x = random.uniform(0.5, 1, (1, 3)).astype(np.float32)
        arrays = {"x": x, "h": state}
        yield Case(name=f"real {index}", origin="real", arrays=arrays, dims={"batch": 1})
        state = running_sum(arrays)["left"]


class Session:
    def __init__(self, answer: Answer, signature: Signature = SIGNATURE) -> None:
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self.run = answer


@pytest.fixture
def proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verdict]:
    """The verdict on an artifact that answers so, by the cases of the signature's model."""

    def run(
        artifact: Answer,
        *,
        signature: Signature = SIGNATURE,
        source: Answer = running_sum,
        layout: str | None = None,
    ) -> Verdict:
        module = ModuleType("fake_source")
        module.signature = lambda declared, **_: declared  # type: ignore[attr-defined]
        module.load = lambda **_: Session(source)  # type: ignore[attr-defined]
        module.dependencies = tuple  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_source", module)
        monkeypatch.setitem(sources.SOURCES, "fake", "fake_source")  # type: ignore[arg-type]
        write_cases(parity_cases(real(), signature=signature), out=tmp_path / "samples")
        reference.run(
            inputs={"samples": tmp_path / "samples"},
            options={
                "source": {"kind": "fake"},
                "signature": signature.to_json(),
                "outputs": None,
            },
            out=tmp_path / "reference",
        )
        told = verify.read_signature(tmp_path / "reference").permuted(layout)  # type: ignore[arg-type]
        target = ModuleType("fake_target")
        target.open = lambda **_: Session(artifact, told)  # type: ignore[attr-defined]
        target.precision = lambda **_: Precision(delivered="fp32")  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_target", target)
        options = asked(layout=layout)
        trees = {"model": tmp_path, "reference": tmp_path / "reference"}
        verify.run(inputs=trees, options=options, out=tmp_path / "out")
        return Verdict.from_json(json.loads((tmp_path / "out/verdict.json").read_text()))

    return run


def test_the_source_goes_on_with_its_own_state(
    proven: Callable[..., Verdict], tmp_path: Path
) -> None:
    proven(running_sum)
    stream = [
        vector
        for vector in read_reference(tmp_path / "reference")
        if vector.case.origin == "streamed"
    ]
    assert len(stream) == 8
    for before, after in pairwise(stream):
        assert after.case.follows == before.case.name
        np.testing.assert_array_equal(after.case.arrays["h"], before.outputs["left"])
    fed = list(real())
    total = sum(fed[step % 5].arrays["x"] for step in range(8))
    expected = 4 * total + fed[0].arrays["h"].sum((2, 3))
    np.testing.assert_allclose(stream[-1].outputs["y"], expected, rtol=1e-5)


def test_an_honest_stream_passes(proven: Callable[..., Verdict]) -> None:
    found = proven(running_sum)
    assert found.status == "passed", found.reason
    assert found.inputs.startswith("5 real, 2 swept, 8 streamed, ")


def test_a_state_in_the_artifacts_own_layout_is_fed_back(proven: Callable[..., Verdict]) -> None:
    shapes: set[tuple[int, ...]] = set()

    def turned(inputs: Arrays) -> Arrays:
        shapes.add(inputs["h"].shape[1:])
        back = permute(inputs, tensors=(STATE.permuted("nhwc"),), layout="nchw")
        left = replace(STATE, name="left")
        return permute(running_sum(back), tensors=(left,), layout="nhwc")

    found = proven(turned, layout="nhwc")
    assert found.status == "passed", found.reason
    assert shapes == {(2, 2, 3)}


@pytest.mark.parametrize(
    "wrong",
    [lambda answer, _: answer | {"left": 0 * answer["left"]}, lambda a, i: a | {"left": i["h"]}],
    ids=["zeroed", "not passed on"],
)
def test_a_wrong_state_fails_where_it_is_given_and_where_it_is_used(
    proven: Callable[..., Verdict], wrong: Callable[[Arrays, Arrays], Arrays]
) -> None:
    found = proven(lambda inputs: wrong(running_sum(inputs), inputs))
    assert found.status == "failed"
    used = [row for row in found.rows if row.output == "y" and row.case.startswith("streamed")]
    assert used[0].numbers.snr_db == np.inf
    assert all((row.numbers.snr_db or 0) < 30 for row in used[1:])


def drifting(inputs: Arrays) -> Arrays:
    """Within the limits in every step, and out of them after some."""
    return {name: array * np.float32(1 + 5e-5) for name, array in running_sum(inputs).items()}


def test_errors_that_build_up_in_the_state_show_in_a_stream_only(
    proven: Callable[..., Verdict],
) -> None:
    found = proven(drifting)
    assert found.status == "failed"
    assert "case 'streamed 7'" in found.reason


def chaotic(inputs: Arrays) -> Arrays:
    """Twice the state, folded back: what rounding changes doubles from step to step."""
    left = inputs["h"] * 2 + inputs["x"][:, :, None, None]
    left = (left - np.rint(left)).astype(np.float32)
    return {"y": left.sum((2, 3)), "left": left}


def test_what_the_source_itself_loses_on_a_stream_is_measured(
    proven: Callable[..., Verdict], tmp_path: Path
) -> None:
    proven(chaotic, source=chaotic)
    stream = [
        vector.noise
        for vector in read_reference(tmp_path / "reference")
        if vector.case.origin == "streamed"
    ]
    assert set(stream[0]) == {"fp32", "fp16", "int8", "int4"}
    first, last = (one["fp16"]["left"] for one in (stream[0], stream[-1]))
    assert last > 30 * first
    for precision in ("fp32", "int8"):
        seen = [one[precision]["y"] for one in stream]
        assert seen == sorted(seen), "what cancels by chance in one step is not forgotten"


def test_without_a_stream_they_would_pass(proven: Callable[..., Verdict]) -> None:
    alone = replace(SIGNATURE, inputs=(X, replace(STATE, fed_by=None)))
    assert proven(drifting, signature=alone).status == "passed"


def test_an_output_that_is_not_there_is_named(proven: Callable[..., Verdict]) -> None:
    signature = replace(SIGNATURE, inputs=(X, replace(STATE, fed_by="lefd")))
    with pytest.raises(StageError, match="'lefd', which is no output of the source; did you mean"):
        proven(running_sum, signature=signature)


def test_a_state_that_grows_is_refused(proven: Callable[..., Verdict]) -> None:
    def growing(inputs: Arrays) -> Arrays:
        return {"left": np.concatenate([inputs["h"], inputs["h"]], 2)}

    with pytest.raises(StageError, match=r"is float32 \[1, 3, 2, 2\] in case 'real 0' and cannot"):
        proven(growing, source=growing)
