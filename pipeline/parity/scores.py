"""The metrics of tasks: what the answer to each labelled sample is worth. Higher is better.

A sample's score is the mean over its labels where it has several. Built in are:

top-K: whether the label is among the K classes with the highest scores; of equal ones the first
    comes first, as in argmax. Scores lie along the output's last axis that is not 1. A label is
    the class's number, or its name where the config has `labels`. An output of integers or strings
    holds classes, not scores: for top-1 it must equal the label.
mean-absolute-error: -mean |output - label|.
words: 1 - word error rate, not below 0: edits (substitutions, insertions, deletions) that make the
    output's words the label's, over the number of the latter. Words are those of text, or tokens.
cosine-ranking: whether, of all other samples, that with the most similar embedding (cosine) has
    the same label. A sample is one item, its whole output the embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays
from crosscast.pipeline.worker.usercode import call, load_function

Label = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outputs for a labelled sample, in the source's dtypes and layout; its case's name."""

    case: str
    outputs: Arrays
    label: Label


def scores(
    answers: Iterable[Answer], *, metric: str, output: str | None, classes: Sequence[str]
) -> list[float]:
    """The score of each answer, all finite.

    metric: one of those above, or "file.py:function" of a function(outputs, label) -> float.
    output: what a metric of one output reads; None for the first. classes: their names, in the
        order of their scores.
    Raises StageError that names the sample where an answer cannot be scored.
    """
    if metric.rpartition(":")[1]:
        function = load_function(metric)
        return [_finite(answer, _called(function, answer)) for answer in answers]
    if metric == "cosine-ranking":
        return _ranked([(answer, _read(answer, output)) for answer in answers])
    score = _score(metric, classes)
    return [_finite(answer, score(answer, _read(answer, output))) for answer in answers]


def _score(metric: str, classes: Sequence[str]) -> Callable[[Answer, NDArray[Any]], float]:
    if metric == "mean-absolute-error":
        return _negative_error
    if metric == "words":
        return _words
    return partial(_top, count=int(metric.removeprefix("top-")), classes=classes)


def _read(answer: Answer, name: str | None) -> NDArray[Any]:
    output = name or next(iter(answer.outputs))
    if output not in answer.outputs:
        there = ", ".join(f"'{name}'" for name in answer.outputs)
        raise _wrong(answer, f"there is no output '{output}'", f"task.output: one of {there}")
    return np.asarray(answer.outputs[output])


def _finite(answer: Answer, value: float) -> float:
    if not np.isfinite(value):
        raise _wrong(answer, f"the score is {value}", "look for what is not finite in the outputs")
    return value


def _called(function: Callable[..., Any], answer: Answer) -> float:
    label = answer.label.item() if answer.label.ndim == 0 else answer.label
    found = call(function, dict(answer.outputs), label, what="metric")
    try:
        return float(found)
    except (TypeError, ValueError):
        raise _wrong(
            answer, f"the metric gives a {type(found).__name__}", "return one number"
        ) from None


def _top(answer: Answer, found: NDArray[Any], *, count: int, classes: Sequence[str]) -> float:
    label = answer.label.ravel()
    if found.dtype.kind == "O":
        return _equal(answer, found.ravel(), label, count)
    if label.dtype.kind == "O":
        label = _numbers(answer, label, classes)
    if label.dtype.kind not in "iub":
        raise _wrong(answer, f"a label is {label.dtype}", "give the class's number or its name")
    if found.dtype.kind != "f":
        return _equal(answer, found.ravel(), label, count)
    rows = found.reshape([size for size in found.shape if size != 1] or [1])
    rows = rows.reshape(-1, rows.shape[-1])
    if rows.shape[1] < 2 or len(rows) != len(label):
        raise _wrong(
            answer,
            f"the output has shape {found.shape}, and there are {len(label)} labels",
            "give one label for each row of scores, or a metric of your own: file.py:function",
        )
    places = label.astype(np.int64)
    beyond = places[(places < 0) | (places >= rows.shape[1])]
    if beyond.size:
        raise _wrong(
            answer, f"class {beyond[0]} of {rows.shape[1]}", "count classes from 0, as the scores"
        )
    return float(
        np.mean([_rank(row, int(place)) < count for row, place in zip(rows, places, strict=True)])
    )


def _rank(row: NDArray[Any], place: int) -> int:
    """How many classes come before that of the place; all do where one is NaN."""
    if np.isnan(row).any():
        return len(row)
    return int(np.sum(row > row[place]) + np.sum(row[:place] == row[place]))


def _numbers(answer: Answer, label: Label, classes: Sequence[str]) -> Label:
    """The classes that labels name, by `classes` or as digits."""
    places = {name: place for place, name in enumerate(classes)}
    unknown = [name for name in label if name not in places and not name.isdecimal()]
    if unknown:
        raise _wrong(
            answer,
            f"'{unknown[0]}' is no class",
            "name the classes under `labels`, in the order of their scores, or give numbers",
        )
    return np.array([places[name] if name in places else int(name) for name in label], np.int64)


def _equal(answer: Answer, found: NDArray[Any], label: Label, count: int) -> float:
    if count > 1:
        raise _wrong(answer, f"the output has classes ({found.dtype}), no scores", "use top-1")
    if found.shape != label.shape:
        raise _wrong(answer, f"{len(found)} classes, {len(label)} labels", "give a label for each")
    return float(np.mean(found == label))


def _negative_error(answer: Answer, found: NDArray[Any]) -> float:
    if found.dtype.kind not in "fiub" or answer.label.dtype.kind not in "fiub":
        raise _wrong(answer, "the output or its label is no number", "choose another metric")
    wanted = np.squeeze(answer.label)
    if np.squeeze(found).shape != wanted.shape:
        raise _wrong(
            answer,
            f"the output has shape {found.shape}, the label {answer.label.shape}",
            "give labels of the output's shape",
        )
    return -float(np.mean(np.abs(np.squeeze(found).astype(np.float64) - wanted)))


def _words(answer: Answer, found: NDArray[Any]) -> float:
    spoken, wanted = _tokens(answer, found), _tokens(answer, answer.label)
    return max(0.0, 1.0 - _edits(spoken, wanted) / max(len(wanted), 1))


def _tokens(answer: Answer, array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind == "O":
        return " ".join(array.ravel()).split()
    if array.dtype.kind in "iu":
        return list(array.ravel().tolist())
    raise _wrong(
        answer,
        f"words are text or integer tokens, not {array.dtype}",
        "decode scores in a metric of your own: file.py:function",
    )


def _edits(found: Sequence[Any], wanted: Sequence[Any]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(wanted) + 1))
    for count, word in enumerate(found, start=1):
        before, row = row, [count]
        for place, other in enumerate(wanted):
            replaced = before[place] + (word != other)
            row.append(min(replaced, before[place + 1] + 1, row[place] + 1))
    return row[-1]


def _ranked(items: Sequence[tuple[Answer, NDArray[Any]]]) -> list[float]:
    groups = [_group(answer) for answer, _ in items]
    _check_groups(items, groups)
    vectors = np.stack([found.ravel().astype(np.float64) for _, found in items])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    found = []
    for place, group in enumerate(groups):
        similar = vectors @ vectors[place]
        similar[place] = -np.inf
        found.append(float(groups[int(np.argmax(similar))] == group))
    return found


def _check_groups(items: Sequence[tuple[Answer, NDArray[Any]]], groups: Sequence[Any]) -> None:
    counts = Counter(groups)
    size = items[0][1].size
    for (answer, found), group in zip(items, groups, strict=True):
        if counts[group] < 2:
            raise _wrong(
                answer, f"no other sample has the label {group!r}", "give two of each or more"
            )
        if found.dtype.kind not in "fiu" or found.size != size:
            raise _wrong(
                answer,
                f"the output has shape {found.shape}, {found.dtype}; the first has {size} numbers",
                "choose an output with one embedding of one size for each sample",
            )
        if not np.isfinite(found).all():
            raise _wrong(answer, "the embedding is not finite", "look at the outputs")


def _group(answer: Answer) -> Any:
    if answer.label.size != 1 or answer.label.dtype.kind not in "iubO":
        raise _wrong(answer, "the label is no group", "label each sample with one number or name")
    return answer.label.ravel()[0]


def _wrong(answer: Answer, what: str, fix: str) -> StageError:
    return StageError(f"labelled sample '{answer.case}': {what}", fix=fix)
