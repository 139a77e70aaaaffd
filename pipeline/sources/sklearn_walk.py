"""What a fitted estimator is made of, found without running it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crosscast.pipeline.errors import StageError

_EXACT = (
    "Pipeline", "ColumnTransformer", "FeatureUnion", "FunctionTransformer", "SimpleImputer",
    "OneHotEncoder", "OrdinalEncoder", "LabelEncoder", "CountVectorizer", "SelectKBest",
    "SelectPercentile", "SelectFromModel", "VarianceThreshold", "RFE", "RFECV", "_BinMapper",
    "VotingClassifier", "VotingRegressor",
)  # fmt: skip
"""Transformers that hand on numbers as they are."""

_CUTTING = (
    "KNeighbors", "RadiusNeighbors", "NearestCentroid", "KBinsDiscretizer", "QuantileTransformer",
    "Isotonic", "GaussianProcess", "LocalOutlierFactor", "Binarizer", "BernoulliNB",
)  # fmt: skip
"""Beginnings of the names of estimators whose answer jumps, or cancels, within float32's rounding
of their inputs."""


def walk(value: Any, *, seen: set[int] | None = None) -> Iterator[Any]:
    """Every object of scikit-learn's in `value`, itself first, each once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set):
        parts = list(value)
    elif getattr(getattr(value, "dtype", None), "kind", "") == "O":
        parts = list(value.ravel())
    elif not isinstance(value, type) and hasattr(value, "__dict__") and _is_sklearn(value):
        yield value
        parts = list(vars(value).values())
    else:
        return
    for part in parts:
        yield from walk(part, seen=seen)


def front(estimator: Any) -> Any:
    """The estimator that is given the inputs: the first step of a pipeline, however deep."""
    name = type(estimator).__name__
    if name == "Pipeline":
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        return front(steps[0]) if steps else estimator
    if name == "FeatureUnion":
        return front(estimator.transformer_list[0][1])
    if hasattr(estimator, "best_estimator_"):
        return front(estimator.best_estimator_)
    if hasattr(estimator, "calibrated_classifiers_"):
        return front(estimator.calibrated_classifiers_[0].estimator)
    if name == "FrozenEstimator":
        return front(estimator.estimator)
    return estimator


def last(estimator: Any) -> Any:
    """The estimator that gives the outputs."""
    while type(estimator).__name__ == "Pipeline":
        estimator = estimator.steps[-1][1]
    return estimator


def is_text(estimator: Any) -> bool:
    """Whether it turns documents into numbers."""
    return type(estimator).__name__ in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


def fills_strings(part: Any) -> bool:
    """Whether it puts strings in the place of missing ones (NaN)."""
    filling = getattr(part, "statistics_", None)
    missing = getattr(part, "missing_values", None)
    return getattr(getattr(filling, "dtype", None), "kind", "") in "OU" and missing != missing


def is_tree(estimator: Any) -> bool:
    """Whether it compares features with thresholds."""
    return hasattr(estimator, "tree_") or hasattr(estimator, "_predictors")


def jumps(estimator: Any) -> bool:
    """Whether float32 inside could change what it answers: a tree after arithmetic puts values
    that rounding moved to the other side of a threshold.
    """
    parts = list(walk(estimator))
    if any(type(part).__name__.startswith(_CUTTING) for part in parts):
        return True
    computed = any(hasattr(p, "transform") and type(p).__name__ not in _EXACT for p in parts)
    stacked = any(type(part).__name__.startswith("Stacking") for part in parts)
    return any(is_tree(part) for part in parts) and (computed or stacked)


def values_range(estimator: Any) -> tuple[float, float] | None:
    """The least and greatest value that an input takes, from what was learnt of the training
    data; None where nothing tells.
    """
    import numpy as np

    found: list[float] = []
    for part in walk(front(estimator)):
        for values in _learnt(part):
            finite = np.asarray(values, dtype=np.float64).ravel()
            found.extend(finite[np.isfinite(finite)])
    if not found:
        return None
    low, high = float(np.floor(min(found))), float(np.ceil(max(found)))
    return (low, high) if low < high else (low - 1, high + 1)


def _learnt(part: Any) -> Iterator[Any]:
    if hasattr(part, "tree_"):
        yield part.tree_.threshold[part.tree_.feature >= 0]
    for predictors in getattr(part, "_predictors", ()):
        for predictor in predictors:
            nodes = predictor.nodes
            yield nodes["num_threshold"][(nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0)]
    if getattr(part, "mean_", None) is not None and hasattr(part, "scale_"):
        width = 2 * (1 if part.scale_ is None else part.scale_)
        yield part.mean_ - width
        yield part.mean_ + width
    for name in ("data_min_", "data_max_", "_fit_X", "cluster_centers_", "theta_", "X_train_"):
        values = getattr(part, name, None)
        if getattr(getattr(values, "dtype", None), "kind", "") == "f":
            yield values


def class_labels(estimator: Any) -> list[list[Any]]:
    """The classes of each target, as int or str. Raises StageError for what a label cannot be."""
    import numpy as np

    classes = getattr(estimator, "classes_", None)
    if classes is None:
        return []
    several = classes if isinstance(classes, list) else [classes]
    labels: list[list[Any]] = []
    for target in several:
        array = np.asarray(target)
        whole = array.dtype.kind in "iub" or (
            array.dtype.kind == "f" and bool(np.all(array == np.rint(array)))
        )
        entries = array.tolist()
        if not whole and not all(isinstance(entry, str) for entry in entries):
            raise StageError(
                f"the classes {entries[:5]} of {type(estimator).__name__} are neither integers nor"
                " strings, which are the labels that an artifact can give",
                fix="fit it on labels of one of the two",
            )
        labels.append([int(entry) for entry in entries] if whole else entries)
    return labels


def _is_sklearn(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "sklearn" or hasattr(value, "get_params")
