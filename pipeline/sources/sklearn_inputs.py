"""What a fitted estimator takes: one matrix, one input a column, or text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import STRING, Arrays, Signature, Tensor, numpy_dtype
from crosscast.pipeline.sources.sklearn_walk import (
    fills_strings,
    front,
    is_text,
    values_range,
    walk,
)

BATCH = (1, 4)
"""Least and greatest number of rows where the config does not say."""

WORDS = 24
"""Of a vocabulary, that made texts are drawn from."""

NEUTRAL = ("", "Hello, world!", "naïve CAFÉ 3.14", "two  spaces\tand\na line")
"""Made texts beside the vocabulary's: nothing, punctuation, other letters than ASCII's."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """How the inputs are given to the estimator.

    kind: matrix, one array [batch, features]; columns, a DataFrame of one array [batch, 1] each;
        text, documents [batch] or [batch, 1].
    names: of the columns in the DataFrame, as the estimator knows them.
    missing: those whose empty strings are missing values (NaN), which artifacts cannot be given.
    """

    kind: Literal["matrix", "columns", "text"]
    tensors: tuple[Tensor, ...]
    names: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()

    def given(self, arrays: Arrays) -> Any:
        """What the estimator's methods take: floats are float64, as it computes."""
        if self.kind == "text":
            return arrays[self.tensors[0].name].ravel().tolist()
        if self.kind == "matrix":
            return _wide(arrays[self.tensors[0].name])
        import pandas

        columns = {}
        for name, tensor in zip(self.names, self.tensors, strict=True):
            values = _wide(arrays[tensor.name])[:, 0].tolist()
            if name in self.missing:
                values = [value or float("nan") for value in values]
            kind = object if tensor.dtype == STRING else None
            columns[name] = pandas.Series(values, dtype=kind)
        return pandas.DataFrame(columns)


def inputs_of(estimator: Any, declared: Signature) -> tuple[Inputs, Signature]:
    """How it takes its inputs, and the signature: what was declared, completed.

    Raises StageError where the declared inputs are not those that the estimator takes.
    """
    found = _found(estimator)
    if not declared.inputs:
        return found, Signature(inputs=found.tensors, dims={"batch": BATCH, **declared.dims})
    _refuse_others(found, declared.inputs)
    tensors = tuple(
        _completed(mine, its)
        for mine, its in zip(_ordered(declared.inputs, found), found.tensors, strict=True)
    )
    ordered = tuple(next(t for t in tensors if t.name == mine.name) for mine in declared.inputs)
    return replace(found, tensors=tensors), replace(declared, inputs=ordered)


def _found(estimator: Any) -> Inputs:
    first = front(estimator)
    if is_text(first):
        text = Tensor(name="text", shape=("batch",), dtype=STRING, values=_texts(first))
        return Inputs(kind="text", tensors=(text,))
    columns = _columns(first)
    if columns:
        missing = frozenset(_missing(first))
        return Inputs(
            kind="columns",
            tensors=tuple(_with_blank(t) if t.name in missing else t for t in columns.values()),
            names=tuple(columns),
            missing=missing,
        )
    width = getattr(estimator, "n_features_in_", None) or getattr(first, "n_features_in_", None)
    if width is None:
        raise StageError(
            f"{type(first).__name__} does not tell how many features it takes (n_features_in_)",
            fix="fit it with scikit-learn 1.0 or newer, on a matrix or a DataFrame",
        )
    return Inputs(kind="matrix", tensors=(_matrix(estimator, first, int(width)),))


def _matrix(estimator: Any, first: Any, width: int) -> Tensor:
    categories = _categories(first)
    if categories and all(isinstance(entry, str) for entry in categories):
        values = tuple(dict.fromkeys(categories))
        return Tensor(name="features", shape=("batch", width), dtype=STRING, values=values)
    return Tensor(
        name="features",
        shape=("batch", width),
        dtype="float32",
        range=values_range(estimator),
    )


def _missing(transformer: Any) -> Iterator[str]:
    """The columns of strings that an imputer of a ColumnTransformer fills."""
    for label, part, _ in transformer.transformers_:
        if any(fills_strings(inner) for inner in walk(part)):
            places = transformer._transformer_to_input_indices[label]
            yield from (str(transformer.feature_names_in_[place]) for place in places)


def _with_blank(tensor: Tensor) -> Tensor:
    return replace(tensor, values=("", *(tensor.values or ())))


def _columns(first: Any) -> dict[str, Tensor]:
    """The columns that a ColumnTransformer uses, by name; empty where it knows no names."""
    names = getattr(first, "feature_names_in_", None)
    if type(first).__name__ != "ColumnTransformer" or names is None:
        return {}
    places: Mapping[str, Sequence[int]] = first._transformer_to_input_indices
    users: dict[int, list[tuple[Any, int]]] = {}
    for label, transformer, _ in first.transformers_:
        if isinstance(transformer, str) and transformer == "drop":
            continue
        for place, index in enumerate(places[label]):
            users.setdefault(int(index), []).append((transformer, place))
    return {str(names[index]): _column(str(names[index]), users[index]) for index in sorted(users)}


def _column(name: str, users: Sequence[tuple[Any, int]]) -> Tensor:
    shape = ("batch", 1)
    for transformer, place in users:
        if is_text(front(transformer)):
            texts = _texts(front(transformer))
            return Tensor(name=name, shape=shape, dtype=STRING, values=texts)
        learnt = _learnt_of(transformer, place)
        strings = tuple(entry for entry in learnt if isinstance(entry, str))
        if strings:
            return Tensor(name=name, shape=shape, dtype=STRING, values=strings)
        if learnt and all(isinstance(entry, int) and entry is not True for entry in learnt):
            bounds = (float(min(learnt)), float(max(learnt)))
            known = bounds if bounds[0] < bounds[1] else None
            return Tensor(name=name, shape=shape, dtype="int64", range=known)
    ranges = [found for user, place in users if (found := _range_of(user, place))]
    return Tensor(name=name, shape=shape, dtype="float32", range=ranges[0] if ranges else None)


def _learnt_of(transformer: Any, place: int) -> list[Any]:
    """The categories of a column, or the filling that tells that it holds strings."""
    for part in walk(transformer):
        categories = getattr(part, "categories_", None)
        if categories is not None and place < len(categories):
            return [entry for entry in categories[place].tolist() if entry == entry]
    return []


def _range_of(transformer: Any, place: int) -> tuple[float, float] | None:
    for part in walk(transformer):
        if getattr(part, "mean_", None) is not None and getattr(part, "scale_", None) is not None:
            mean, width = float(part.mean_[place]), 2 * float(part.scale_[place])
            return mean - width, mean + width
        if hasattr(part, "data_min_"):
            low, high = float(part.data_min_[place]), float(part.data_max_[place])
            return (low, high) if low < high else None
    return None


def _categories(estimator: Any) -> list[Any]:
    return [entry for column in getattr(estimator, "categories_", ()) for entry in column.tolist()]


def _texts(vectorizer: Any) -> tuple[str, ...]:
    """Made texts: words of the vocabulary, evenly picked, phrases of them, and NEUTRAL."""
    terms = sorted(getattr(vectorizer, "vocabulary_", {}))
    picked = terms[:: max(1, len(terms) // WORDS)][:WORDS]
    phrases = (" ".join(picked[place : place + 3]) for place in range(0, len(picked), 3))
    return tuple(dict.fromkeys([*NEUTRAL, *picked, *phrases]))


def _completed(mine: Tensor, its: Tensor) -> Tensor:
    """The declared tensor; what it leaves open is filled in with what was found."""
    values = mine.values or (its.values if mine.dtype == STRING else None)
    numeric = mine.dtype not in (STRING, "bool")
    bounds = mine.range or (its.range if numeric else None)
    return replace(mine, values=values, range=bounds)


def _ordered(declared: Sequence[Tensor], found: Inputs) -> list[Tensor]:
    by_name = {tensor.name: tensor for tensor in declared}
    if found.kind != "columns":
        return list(declared)
    return [by_name[name] for name in found.names]


def _refuse_others(found: Inputs, declared: Sequence[Tensor]) -> None:
    wanted = ", ".join(f"{tensor.name} {tensor.dtype} {_text(tensor)}" for tensor in found.tensors)
    fix = f"it takes {wanted}; leave `inputs` out to have them declared so"
    names = [tensor.name for tensor in declared]
    if found.kind == "columns" and sorted(names) != sorted(found.names):
        missing = [name for name in found.names if name not in names]
        other = [name for name in names if name not in found.names]
        what = f"'{missing[0]}' is missing" if missing else f"'{other[0]}' is none of its columns"
        raise StageError(f"inputs: {what}", fix=fix)
    if len(declared) != len(found.tensors):
        raise StageError(f"inputs: {len(declared)} are declared", fix=fix)
    for mine, its in zip(_ordered(declared, found), found.tensors, strict=True):
        if not _fits(mine, its, found.kind):
            said = f"{mine.dtype} {_text(mine)}"
            raise StageError(f"inputs: '{mine.name}' is declared as {said}", fix=fix)


def _fits(mine: Tensor, its: Tensor, kind: str) -> bool:
    if (mine.dtype == STRING) != (its.dtype == STRING):
        # a column whose categories are not known may hold either
        return kind == "columns" and its.dtype == "float32" and mine.dtype == STRING
    if kind == "text":
        return list(mine.shape[1:]) in ([], [1])
    return len(mine.shape) == 2 and mine.shape[1] == its.shape[1]


def _text(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _wide(array: Any) -> Any:
    return array.astype(numpy_dtype("float64")) if array.dtype.kind == "f" else array
