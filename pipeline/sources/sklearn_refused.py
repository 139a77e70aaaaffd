"""Estimators that cannot become ONNX, each by its name and with what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.sklearn_text import problem
from crosscast.pipeline.sources.sklearn_walk import is_text, walk

_NO_CONVERTER = "use an estimator that skl2onnx converts, or leave this step out of the model"

_KNOWN: Mapping[str, tuple[str, str]] = {
    "GaussianProcessClassifier": (
        "skl2onnx writes an operator (Solve) that no runtime has",
        "use GaussianProcessRegressor, or an SVC with an RBF kernel",
    ),
    "RandomTreesEmbedding": ("its sparse output is no tensor", "use a forest's own predictions"),
}


def refuse(estimator: Any) -> None:
    """Raise StageError for an estimator, or a part of it, that would answer otherwise in ONNX."""
    for part in walk(estimator):
        told = _problem(part)
        if told is not None:
            raise StageError(
                f"{told[0]}, so the model cannot be exported to ONNX as it is", fix=told[1]
            )


def _problem(part: Any) -> tuple[str, str] | None:
    name = type(part).__name__
    if is_text(part):
        return problem(part)
    if name in _KNOWN:
        return f"{name}: {_KNOWN[name][0]}", _KNOWN[name][1]
    if name.startswith("KNeighbors") and getattr(part, "weights", "uniform") != "uniform":
        return (
            f"{name}(weights={part.weights!r}): skl2onnx weighs neighbours at distance 0 otherwise",
            "fit it with weights='uniform'",
        )
    if getattr(part, "is_categorical_", None) is not None and hasattr(part, "_predictors"):
        return (
            f"{name}: its splits on categories have no equivalent",
            "encode them as numbers (OneHotEncoder) before it, without categorical_features",
        )
    if getattr(part, "add_indicator", False):
        return (
            f"{name}(add_indicator=True): skl2onnx leaves the indicators out",
            "fit it with add_indicator=False",
        )
    if name == "FunctionTransformer" and part.func is not None:
        return (
            f"FunctionTransformer(func={getattr(part.func, '__name__', part.func)}): code of one's "
            "own cannot be put into the graph",
            "do it before the data is given to the model",
        )
    return None


def unsupported(estimator: Any, error: Exception) -> StageError:
    """What to say where skl2onnx fails."""
    from skl2onnx._supported_operators import sklearn_operator_name_map as known

    unknown = [
        part
        for part in walk(estimator)
        if hasattr(part, "fit")
        and hasattr(part, "get_params")
        and type(part) not in known
        and type(part).__name__ not in ("Pipeline", "ColumnTransformer", "FeatureUnion")
        and not getattr(type(part), "__abstractmethods__", None)
    ]
    first = " ".join(str(error).split())[:300]
    if type(error).__name__ == "MissingShapeCalculator" and unknown:
        return _without_converter(unknown[0])
    return StageError(
        f"{type(estimator).__name__}: skl2onnx cannot convert it: {type(error).__name__}: {first}",
        fix=_NO_CONVERTER,
    )


def _without_converter(part: Any) -> StageError:
    package = type(part).__module__.partition(".")[0]
    if package == "sklearn":
        return StageError(
            f"{type(part).__name__}: skl2onnx has no converter for it", fix=_NO_CONVERTER
        )
    return StageError(
        f"{type(part).__name__} of {package} is no estimator of scikit-learn, and no converter is "
        "registered for it",
        fix=f"register one in the factory's file (skl2onnx.update_registered_converter), or export "
        f"the {package} model to ONNX with its own tools and use an `onnx:` source",
    )
