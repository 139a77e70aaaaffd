from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crosscast.targets.base import KEPT, NOTES, SAID
from crosscast.targets.families import tflite_hybrid
from crosscast.targets.families.sensitivity import Room
from crosscast.targets.families.tflite import FILE

FAR, NEAR, SHORT = Room([9.0, 9.0]), Room([-2.0, 1.0]), Room([-9.0, -9.0])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / FILE).write_bytes(b"float")
    return tmp_path / "model"


def wrote(
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    rooms: Sequence[Room],
    samples: Path | None = Path("samples"),
) -> tuple[str, dict[str, Any]]:
    """The file, and its notes, where the three ways leave so much room."""
    left = iter(rooms)

    class Trial:
        def __init__(self, content: bytes, samples: Path) -> None:
            assert content == b"float"

        def room(self, content: bytes) -> Room:
            return next(left)

    monkeypatch.setattr(tflite_hybrid, "shipped_as_it_is", lambda *_: False)
    monkeypatch.setattr(tflite_hybrid, "Trial", Trial)
    monkeypatch.setattr(tflite_hybrid, "corrected", lambda content, samples: content)
    monkeypatch.setattr(tflite_hybrid, "_hybrid", lambda _: frozenset(("y",)))
    monkeypatch.setattr(tflite_hybrid, "_made", lambda *given: given[1])
    monkeypatch.setattr(tflite_hybrid.files, "packed", lambda made: made)
    monkeypatch.setattr(
        tflite_hybrid.files,
        "write",
        lambda made, path: path.write_text(f"{made.corrected} {made.is_float}"),
    )
    out = tree.parent / "out"
    tflite_hybrid.to_int8(model=tree, options={}, samples=samples, out=out)
    notes = out / NOTES
    return (out / FILE).read_text(), json.loads(notes.read_text()) if notes.exists() else {}


@pytest.mark.parametrize(
    ("rooms", "made", "told"),
    [
        ([FAR], "False False", {}),
        ([SHORT, FAR], "True False", {KEPT: {"biases": "corrected"}}),
        (
            [SHORT, SHORT, NEAR],
            "True True",
            {KEPT: {"biases": "corrected", "arithmetic": "float"}},
        ),
        ([SHORT, NEAR, SHORT], "True False", {KEPT: {"biases": "corrected"}}),
        ([NEAR, NEAR, NEAR], "False False", {}),
    ],
)
def test_the_first_way_with_room_is_taken_and_else_the_best(
    rooms: list[Room], made: str, told: Any, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, notes = wrote(tree, monkeypatch, rooms)
    assert (found, bool(notes.pop(SAID, ""))) == (made, bool(told))
    assert notes == told


def test_without_samples_nothing_is_tried(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrote(tree, monkeypatch, [], samples=None) == ("False False", {})
