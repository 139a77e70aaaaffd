"""A fitted estimator to ONNX by skl2onnx, mended where what it writes answers otherwise."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import STRING
from crosscast.pipeline.sources import sklearn_refused as refused
from crosscast.pipeline.sources.sklearn_converters import mended
from crosscast.pipeline.sources.sklearn_graph import finished
from crosscast.pipeline.sources.sklearn_lower import lower
from crosscast.pipeline.sources.sklearn_model import Reference
from crosscast.pipeline.sources.sklearn_types import one_float
from crosscast.pipeline.sources.sklearn_walk import fills_strings, jumps, last, walk

DEFAULT_OPSET = 18
LEAST_OPSET = 13
"""From where the operators that are added here have their present form."""

ML_OPSET = 3
"""The newest version of ai.onnx.ml that skl2onnx writes."""


def exported(reference: Reference, *, opset: int) -> tuple[Any, dict[str, Any]]:
    """The ONNX model with the reference's inputs and outputs, and notes on how it was made."""
    from skl2onnx import __max_supported_opset__ as newest

    if not LEAST_OPSET <= opset <= newest:
        raise StageError(
            f"opset {opset}: scikit-learn models are exported to opset {LEAST_OPSET} to {newest}",
            fix="set 'opset' to one of them, or leave it out",
        )
    refused.refuse(reference.estimator)
    notes: dict[str, Any] = {"computed_in": "float32"}
    made = None
    if reference.dtype == "float64" or jumps(reference.estimator):
        try:
            made = _converted(reference, floats="float64", opset=opset)
            notes["computed_in"] = "float64"
        except StageError as error:
            notes["not_float64"] = error.message
    model = made or _converted(reference, floats="float32", opset=opset)
    return finished(model, reference, opset=opset), notes


def _converted(reference: Reference, *, floats: str, opset: int) -> Any:
    """What skl2onnx writes, with one type of float wherever operators want one: `floats`."""
    import skl2onnx

    estimator = _prepared(reference.estimator)
    types = [
        (name, _onnx_type(tensor.dtype, width, floats)) for name, tensor, width in _ports(reference)
    ]
    with mended(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = _options(estimator)
        try:
            model = skl2onnx.convert_sklearn(
                estimator,
                initial_types=types,
                options=options,
                target_opset={"": opset, "ai.onnx.ml": ML_OPSET},
            )
        except StageError:
            raise
        except Exception as error:
            raise refused.unsupported(reference.estimator, error) from error
    one_float(model, double=floats == "float64")
    lower(model, opset=opset)
    return model


def _ports(reference: Reference) -> Iterator[tuple[str, Any, int]]:
    """Name, tensor and width of each input as skl2onnx is told of it."""
    given = reference.given
    names = given.names or ("input",) * len(given.tensors)
    for name, tensor in zip(names, given.tensors, strict=True):
        width = 1 if given.kind == "text" else int(tensor.shape[1])
        yield name, tensor, width


def _onnx_type(dtype: str, width: int, floats: str) -> Any:
    from skl2onnx.common import data_types

    if dtype == STRING:
        return data_types.StringTensorType([None, width])
    if dtype.startswith("float"):
        double = floats == "float64"
        made = data_types.DoubleTensorType if double else data_types.FloatTensorType
        return made([None, width])
    return data_types.Int64TensorType([None, width])


def _options(estimator: Any) -> dict[int, dict[str, Any]]:
    """Of the estimator that gives the outputs: probabilities as a tensor, and scores as
    decision_function gives them where there are no probabilities.
    """
    from skl2onnx._supported_operators import sklearn_operator_name_map as aliases
    from skl2onnx.common._registration import _converter_pool as pool

    final = last(estimator)
    converter = pool.get(aliases.get(type(final)))
    allowed = (converter.get_allowed_options() if converter else None) or {}
    scores = not hasattr(estimator, "predict_proba")
    wanted = {"zipmap": False, "raw_scores": scores}
    return {id(final): {key: value for key, value in wanted.items() if key in allowed}}


def _prepared(estimator: Any) -> Any:
    """A copy that skl2onnx takes: its answers are the same.

    Labels that are not int64 or strings become int64, which skl2onnx mistakes otherwise;
    what only wraps an estimator is left out; flat votes are an option of transform() alone; a
    string that is missing is the empty one.
    """
    import numpy as np

    made = _unwrapped(copy.deepcopy(estimator))
    for part in walk(made):
        if getattr(part, "flatten_transform", False):
            part.flatten_transform = False
        if type(part).__name__ == "KBinsDiscretizer" and part.encode == "onehot":
            part.encode = "onehot-dense"
        if fills_strings(part):
            part.missing_values = ""
        classes = vars(part).get("classes_")
        if isinstance(classes, np.ndarray) and classes.dtype.kind in "iubf":
            part.classes_ = classes.astype(np.int64)
    return made


def _unwrapped(value: Any) -> Any:
    """The value with each FrozenEstimator and each search in it replaced by what it holds."""
    if type(value).__name__ == "FrozenEstimator":
        return _unwrapped(value.estimator)
    if hasattr(value, "best_estimator_"):
        return _unwrapped(value.best_estimator_)
    if isinstance(value, list):
        value[:] = [_unwrapped(entry) for entry in value]
    elif isinstance(value, tuple) and type(value) is tuple:
        return tuple(_unwrapped(entry) for entry in value)
    elif type(value).__module__.startswith("sklearn.") and hasattr(value, "__dict__"):
        for key, entry in vars(value).items():
            setattr(value, key, _unwrapped(entry))
    return value
