"""What differs between two releases, and which versions it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from releases import OUTPUT, TENSOR, artifact, content

from crosscast.pipeline.config.release import Gates
from crosscast.pipeline.errors import GateError
from crosscast.pipeline.release import gates
from crosscast.pipeline.release.diff import Comparison, compare, contents, describe
from crosscast.pipeline.release.document import Release
from crosscast.pipeline.release.latency import Timing

FILES = {"model.onnx": b"x" * 1000, "manifest.json": b"{}", "vectors.safetensors": b"v"}


def release(version: str = "1.0.0", *, target: str = "onnx", **changes: Any) -> Release:
    told = artifact(**{"files": FILES, **changes})
    return Release(content=content({target: told}, version=version))


def compared(timings: dict[str, Timing] | None = None, /, **changes: Any) -> Comparison:
    return compare(release(), release("1.0.1", **changes), timings=timings)


def refused(comparison: Comparison, *, after: str = "1.0.1", **limits: Any) -> list[str]:
    return gates.refusals(comparison, gates=Gates(**limits), before="1.0.0", after=after)


def test_equal_releases_differ_in_nothing() -> None:
    comparison = compared()
    assert [number.worse for number in comparison.numbers] == [0, 0]
    assert comparison.changes == ()
    assert refused(comparison) == []


# Numbers


@pytest.mark.parametrize(("size", "is_refused"), [(1050, False), (1051, True), (10, False)])
def test_size(size: int, is_refused: bool) -> None:
    comparison = compared(files={**FILES, "model.onnx": b"x" * size})
    assert bool(refused(comparison)) == is_refused
    assert refused(comparison, max_size_growth=None) == []


def test_size_is_that_of_the_model_alone() -> None:
    assert refused(compared(files={**FILES, "vectors.safetensors": b"v" * 9999})) == []


def test_a_refusal_names_target_number_and_limit() -> None:
    comparison = compared(files={**FILES, "model.onnx": b"x" * 2000})
    assert refused(comparison) == [
        "onnx: size 1,000 -> 2,000 bytes (+100.0%): over max_size_growth, 5 %"
    ]


@pytest.mark.parametrize(
    ("before", "after", "is_refused"),
    [
        (40.0, 37.0, False),
        (40.0, 36.9, True),
        (40.0, 50.0, False),
        ("inf", 120.0, False),  # both are as good as float32 gets
        ("inf", 90.0, True),
        (110.0, 98.0, False),
        (None, 10.0, False),  # an integer output has no SNR
    ],
)
def test_snr(before: Any, after: Any, is_refused: bool) -> None:
    comparison = compare(release(snr_db=before), release("1.0.1", snr_db=after))
    assert bool(refused(comparison)) == is_refused
    assert refused(comparison, max_snr_drop_db=None) == []


def test_rows_that_are_not_judged_have_no_snr() -> None:
    row = {"gated": False, "numbers": {"snr_db": 1.0}}
    changed = compared(verdict={"status": "passed", "reason": "", "worst": {"y": row}})
    assert [number.quantity for number in changed.numbers] == ["size"]


def scored(score: float, metric: str = "top-1") -> dict[str, Any]:
    return {"verdict": {"worst": {}, "task": {"metric": metric, "artifact": score}}}


@pytest.mark.parametrize(("score", "is_refused"), [(0.89, False), (0.88, True), (0.95, False)])
def test_scores(score: float, is_refused: bool) -> None:
    comparison = compare(release(**scored(0.9)), release("1.0.1", **scored(score)))
    assert bool(refused(comparison)) == is_refused


def test_scores_of_other_metrics_are_not_compared() -> None:
    comparison = compare(release(**scored(0.9)), release("1.0.1", **scored(0.1, "top-5")))
    assert refused(comparison) == []


@pytest.mark.parametrize(
    ("low", "ratio", "is_refused"), [(1.09, 1.5, False), (1.11, 1.5, True), (0.5, 0.6, False)]
)
def test_latency_is_refused_only_where_noise_cannot_explain_it(
    low: float, ratio: float, is_refused: bool
) -> None:
    timing = Timing(before=1e-3, after=1.5e-3, ratio=ratio, low=low, high=2)
    assert bool(refused(compared({"onnx": timing}))) == is_refused


def test_a_latency_that_was_not_measured_says_why() -> None:
    comparison = compared({"onnx": Timing(unmeasured="no runtime for it on this host")})
    assert "onnx  latency not measured: no runtime for it on this host" in describe(comparison)
    assert refused(comparison) == []


# Interfaces


def tensor(**changes: Any) -> dict[str, Any]:
    return {**TENSOR, **changes}


NEW_OUTPUT = {**OUTPUT, "name": "z"}
RENAMED = {"inputs": [tensor(shape=["n", 3])], "dims": {"batch": [1, 4], "n": [1, 4]}}
CHANGES = {
    "renamed": ({"inputs": [tensor(name="z")]}, "major"),
    "dtype": ({"inputs": [tensor(dtype="float16")]}, "major"),
    "layout": ({"inputs": [tensor(layout="nhwc")]}, "major"),
    "fixed": ({"inputs": [tensor(shape=[1, 3])]}, "major"),
    "rank": ({"inputs": [tensor(shape=["batch", 3, 1])]}, "major"),
    "narrower": ({"dims": {"batch": [1, 2]}}, "major"),
    "wider": ({"dims": {"batch": [1, 8]}}, "minor"),
    "other name of a dimension": (RENAMED, None),
    "input added": ({"inputs": [TENSOR, tensor(name="mask")]}, "major"),
    "input gone": ({"inputs": []}, "major"),
    "output added": ({"outputs": [OUTPUT, NEW_OUTPUT]}, "minor"),
    "output added in front": ({"outputs": [NEW_OUTPUT, OUTPUT]}, "major"),
    "labels": ({"labels": {"output": "y", "names": ["a"]}}, "major"),
    "preprocessing": ({"preprocessing": {"x": {"scale": 1}}}, "major"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_change_of_the_interface_asks_for(name: str) -> None:
    changes, level = CHANGES[name]
    comparison = compared(**changes)
    allowed = {None: "1.0.1", "minor": "1.1.0", "major": "2.0.0"}
    for asked, version in allowed.items():
        enough = gates.RANK[asked] >= gates.RANK[level]  # type: ignore[index]
        assert (refused(comparison, after=version) == []) == enough, version


def test_outputs_that_change_their_order() -> None:
    before = release(outputs=[OUTPUT, NEW_OUTPUT])
    comparison = compare(before, release("1.1.0", outputs=[NEW_OUTPUT, OUTPUT]))
    assert refused(comparison, after="1.1.0") == [
        "onnx: outputs were y, z, now z, y: asks for a major version, 1.0.0 -> 1.1.0 is less"
    ]


def test_targets_that_vanish_or_come() -> None:
    comparison = compare(release(), release("1.1.0", target="ort"))
    assert [(change.target, change.level) for change in comparison.changes] == [
        ("onnx", "major"),
        ("ort", "minor"),
    ]
    assert len(refused(comparison, after="1.1.0")) == 1
    assert refused(comparison, after="2.0.0") == []


def test_devices_that_vanish_change_or_come() -> None:
    def shipping(**devices: Any) -> Release:
        return Release(content={**release().content, "devices": devices})

    before, after = shipping(a=1, b=1, c=1), shipping(b=1, c=2, d=1)
    assert [(it.target, it.text, it.level) for it in compare(before, after).changes] == [
        ("device a", "is not in it any more", "major"),
        ("device c", "changed", None),
        ("device d", "is new", None),
    ]
    assert len(compare(before, release()).changes) == 3


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        ("1.2.3", "1.2.4", None),
        ("1.2.3", "1.3.0", "minor"),
        ("1.2.3", "2.0.0", "major"),
        ("0.2.3", "0.2.4", "minor"),
        ("0.2.3", "0.3.0", "major"),
        ("1.0.0-rc.1", "1.0.0", "major"),
        ("1.0.0-rc.1", "1.0.0-rc.2", "major"),
        ("1.0.0-rc.1", "1.0.1", None),
        ("1.2.3", "2.0.0-rc.1", "major"),
    ],
)
def test_what_a_step_between_versions_allows_for(before: str, after: str, level: str) -> None:
    assert gates.bump(gates.Version.parse(before), gates.Version.parse(after)) == level


def test_refusals_are_one_error_with_what_to_do() -> None:
    gates.require([], before="m 1.0.0")
    with pytest.raises(GateError, match=r"refused against m 1\.0\.0:\n  a\n  b\n  fix: mend"):
        gates.require(["a", "b"], before="m 1.0.0")


def test_contents_names_what_makes_two_releases_differ() -> None:
    other = release(files={**FILES, "model.onnx": b"y"}, options={"opset": 20})
    assert contents(release(), other) == ["onnx/model.onnx"]
    moved = Release(content={**release().content, "config": {"sha256": "e" * 64}})
    assert contents(release(), moved) == ["config"]
