from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.config.schema import json_schema
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.scores import Answer, scores


def found(metric: str, *pairs: tuple[Any, Any], classes: tuple[str, ...] = ()) -> list[float]:
    answers = [
        Answer(case=f"real {place}", outputs={"y": array(output)}, label=array(label))
        for place, (output, label) in enumerate(pairs)
    ]
    return scores(answers, metric=metric, output="y", classes=classes)


def array(value: Any) -> np.ndarray[Any, Any]:
    made = np.asarray(value)
    return made.astype(object) if made.dtype.kind == "U" else made


def refused(metric: str, *pairs: tuple[Any, Any], classes: tuple[str, ...] = ()) -> str:
    with pytest.raises(StageError) as caught:
        found(metric, *pairs, classes=classes)
    assert caught.value.fix
    return caught.value.message


ROW = [[0.1, 0.7, 0.15, 0.05]]


@pytest.mark.parametrize(
    ("metric", "label", "expected"),
    [
        ("top-1", 1, 1),
        ("top-1", 2, 0),
        ("top-2", 2, 1),
        ("top-2", 0, 0),
        ("top-3", 0, 1),
        ("top-9", 3, 1),
    ],
)
def test_top(metric: str, label: int, expected: float) -> None:
    assert found(metric, (ROW, label)) == [expected]


def test_of_equal_scores_the_first_comes_first_as_in_argmax() -> None:
    equal = [[0.0, 0.5, 0.5]]
    assert found("top-1", (equal, 1), (equal, 2)) == [1, 0]
    assert found("top-1", ([[0.0] * 3], 2)) == [0]


def test_nan_is_never_right() -> None:
    nan = [[np.nan, 1.0, 0.0]]
    assert found("top-1", (nan, 0), (nan, 1)) == [0, 0]
    assert found("top-3", (nan, 0)) == [0]


@pytest.mark.parametrize("shape", [(1, 4), (4,), (1, 4, 1, 1), (1, 1, 1, 4)])
def test_scores_lie_along_the_last_axis_that_is_not_1(shape: tuple[int, ...]) -> None:
    assert found("top-1", (np.reshape(ROW, shape), 1)) == [1]


def test_a_sample_with_several_labels_has_their_mean() -> None:
    rows = np.eye(4)[None]  # tokens of a sentence
    assert found("top-1", (rows, [0, 1, 2, 0])) == [0.75]


def test_labels_may_be_names() -> None:
    names = ("ant", "bee", "cat", "7")
    assert found("top-1", (ROW, "bee"), (ROW, "1"), (ROW, "7"), classes=names) == [1, 1, 0]
    assert "'dog' is no class" in refused("top-1", (ROW, "dog"), classes=names)


def test_an_output_of_classes_must_be_the_label() -> None:
    assert found("top-1", (["bee"], "bee"), (["ant"], "bee"), ([3], 3), ([3], 4)) == [1, 0, 1, 0]
    assert found("top-1", ([1], "bee"), classes=("ant", "bee")) == [1]
    assert "no scores" in refused("top-5", ([3], 3))


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((ROW, [1, 2]), "shape (1, 4), and there are 2 labels"),
        (([[0.3]], 0), "shape (1, 1)"),
        ((ROW, 4), "class 4 of 4"),
        ((ROW, -1), "class -1 of 4"),
        ((np.eye(4), [3, -1, 0, 2]), "class -1 of 4"),
        ((ROW, 0.5), "a label is float64"),
        (([3, 4], 3), "2 classes, 1 labels"),
    ],
)
def test_what_top_1_cannot_score(pair: tuple[Any, Any], expected: str) -> None:
    assert expected in refused("top-1", (ROW, 1), pair)
    assert refused("top-1", (ROW, 1), pair).startswith("labelled sample 'real 1': ")


def test_mean_absolute_error_is_negative() -> None:
    assert found("mean-absolute-error", ([[1.0, 2.0]], [1.0, 4.0]), ([3], 3)) == [-1, 0]
    assert "shape (1, 2)" in refused("mean-absolute-error", ([[1.0, 2.0]], [1.0]))
    assert "no number" in refused("mean-absolute-error", (["a"], 1))
    assert "score is nan" in refused("mean-absolute-error", ([[np.nan]], 1.0))


@pytest.mark.parametrize(
    ("spoken", "wanted", "expected"),
    [
        ("the cat sat", "the cat sat", 1),
        ("the bat sat", "the cat sat", 2 / 3),
        ("the sat", "the cat sat", 2 / 3),
        ("oh the cat sat", "the cat sat", 2 / 3),
        ("sat the cat", "the cat sat", 1 / 3),
        ("", "the cat sat", 0),
        ("a b c d e f g h", "the cat", 0),
        ("", "", 1),
        ("a", "", 0),
    ],
)
def test_words(spoken: str, wanted: str, expected: float) -> None:
    assert found("words", ([spoken], wanted)) == [pytest.approx(expected)]


def test_words_may_be_tokens() -> None:
    assert found("words", ([[5, 6, 7, 8]], [5, 6, 7, 9])) == [0.75]
    assert "not float64" in refused("words", (ROW, "cat"))


def test_cosine_ranking() -> None:
    pairs = [([[1.0, 0.0]], "x"), ([[9.0, 1.0]], "x"), ([[0.0, 1.0]], "y"), ([[0.1, 5.0]], "y")]
    assert found("cosine-ranking", *pairs) == [1, 1, 1, 1]
    pairs[3] = ([[5.0, 0.1]], "y")
    assert found("cosine-ranking", *pairs) == [0, 0, 0, 0]
    assert "no other sample has the label 'z'" in refused("cosine-ranking", *pairs, ([[1.0]], "z"))
    assert "first has 2 numbers" in refused("cosine-ranking", *pairs, ([[1.0]], "y"))
    assert "not finite" in refused("cosine-ranking", *pairs, ([[np.inf, 0.0]], "y"))
    assert "no group" in refused("cosine-ranking", ([[1.0]], 0.5))


def test_nothing_is_similar_to_a_dead_embedding() -> None:
    dead = [([[0.0, 0.0]], place % 2) for place in range(4)]
    assert sum(found("cosine-ranking", *dead)) < 4


def test_an_output_that_is_not_there_is_named() -> None:
    answer = Answer(case="real 0", outputs={"y": array(ROW)}, label=array(1))
    with pytest.raises(StageError, match="no output 'z'"):
        scores([answer], metric="top-1", output="z", classes=())
    assert scores([answer], metric="top-1", output=None, classes=()) == [1]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine.py").write_text(
        "def near(outputs, label): return 1 - abs(outputs['y'].sum() - label)\n"
        "def none(outputs, label): return None\n"
        "def broken(outputs, label): return outputs['z']\n"
        "def nan(outputs, label): return float('nan')\n"
        "def typed(outputs, label): return type(label) is int\n"
    )
    return f"{tmp_path}/mine.py"


def test_a_function_of_the_users_own(own: str) -> None:
    assert found(f"{own}:near", ([0.5], 1.0), ([1.0], 1.0)) == [0.5, 1]
    assert found(f"{own}:typed", ([0.5], 1)) == [1]
    assert "gives a NoneType" in refused(f"{own}:none", ([0.5], 1))
    assert "score is nan" in refused(f"{own}:nan", ([0.5], 1))
    with pytest.raises(StageError, match=r"the metric failed: mine.py:3 in broken: KeyError: 'z'"):
        found(f"{own}:broken", ([0.5], 1))


def test_the_config_takes_the_metrics_that_there_are() -> None:
    pattern = json_schema({})["$defs"]["Task"]["properties"]["metric"]["pattern"]
    for metric in ("top-1", "top-10", "mean-absolute-error", "words", "cosine-ranking", "a.py:f"):
        assert re.search(pattern, metric)
    for metric in ("top-0", "top1", "accuracy", "a.py", "words "):
        assert not re.search(pattern, metric)
