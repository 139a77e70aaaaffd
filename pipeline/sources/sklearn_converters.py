"""Converters in place of those of skl2onnx that write another answer than scikit-learn gives.

What they mend, in skl2onnx 1.20:
    CountVectorizer      letters beyond ASCII split tokens, stop words do not leave n-grams
    TfidfTransformer     sublinear_tf as log(1 + n) where it is 1 + log(n)
    SGDClassifier        labels from probabilities, which tie where they saturate, not from scores
    isotonic calibration steps to the nearest point where it interpolates
    KBinsDiscretizer     edges in float32; no one-hot encoding
    trees and forests    of several targets: thresholds rounded to the nearest float32, one tree
                         and strings refused; labels from sums in float32, which tie otherwise
    other ensembles      truth values among integers, which newer versions of onnx refuse; the
                         thresholds of histogram-based ones rounded to the nearest float32
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.sources import sklearn_text, sklearn_trees
from crosscast.pipeline.sources.sklearn_nodes import Nodes


@contextmanager
def mended() -> Iterator[None]:
    """Within it, skl2onnx converts with these in place of its own."""
    import skl2onnx  # noqa: F401 - registers its own first
    from skl2onnx.common import _container, tree_ensemble
    from skl2onnx.operator_converters import calibrated_classifier_cv as calibrated

    _register()
    made, node, step = _container.make_node, tree_ensemble.add_node, calibrated._transform_isotonic
    _container.make_node = _with_integers(made)
    tree_ensemble.add_node = _with_thresholds(node)
    calibrated._transform_isotonic = isotonic
    try:
        yield
    finally:
        _container.make_node = made
        tree_ensemble.add_node = node
        calibrated._transform_isotonic = step


def _register() -> None:
    from skl2onnx.common import _registration as pool

    ours: dict[str, Callable[[Any, Any, Any], None]] = {
        "SklearnCountVectorizer": sklearn_text.convert,
        "SklearnTfidfTransformer": tfidf,
        "SklearnKBinsDiscretizer": bins,
        "SklearnSGDClassifier": _sgd(pool._converter_pool["SklearnSGDClassifier"]._fct),
        **dict.fromkeys(sklearn_trees.ALIASES, sklearn_trees.convert),
    }
    for alias, convert in ours.items():
        options = pool._converter_pool[alias].get_allowed_options()
        if not getattr(pool._converter_pool[alias]._fct, "is_ours", False):
            pool.register_converter(alias, convert, overwrite=True, options=options)


def _with_thresholds(add_node: Callable[..., Any]) -> Callable[..., Any]:
    """skl2onnx's add_node with each threshold t as the greatest float32 that is no greater: for
    any float32 x, x <= t says the same of both.
    """

    def added(*args: Any, **named: Any) -> Any:
        return add_node(
            *args, **named | {"adjust_threshold_for_sklearn": True, "dtype": np.float32}
        )

    return added


def _with_integers(make_node: Callable[..., Any]) -> Callable[..., Any]:
    """Onnx's make_node that takes lists of truth values and numpy's integers for integers."""

    def made(*args: Any, **attributes: Any) -> Any:
        plain = {key: _integers(value) for key, value in attributes.items()}
        return make_node(*args, **plain)

    return made


def _integers(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(item, bool | np.integer) for item in value):
        return [int(item) if isinstance(item, bool | np.integer) else item for item in value]
    return value


def tfidf(scope: Any, operator: Any, container: Any) -> None:
    """TfidfTransformer: counts [rows, terms] to weights."""
    nodes, double = Nodes(scope, container), _is_double(operator)
    transformer = operator.raw_operator
    one = nodes.constant(np.ones(1), double=double)
    data = operator.input_full_names[0]
    if transformer.sublinear_tf:
        logs = nodes.node("Add", nodes.node("Log", nodes.node("Max", data, one)), one)
        data = nodes.node("Mul", logs, nodes.node("Min", data, one))
    if transformer.use_idf:
        weights = np.asarray(transformer.idf_)
        data = nodes.node("Mul", data, nodes.constant(weights, double=double))
    if transformer.norm is not None:
        kind = {"l1": "ReduceL1", "l2": "ReduceL2"}[transformer.norm]
        norm = _reduced(nodes, kind, data, container)
        empty = nodes.node("Sub", one, nodes.node("Sign", norm))
        data = nodes.node("Div", data, nodes.node("Add", norm, empty))
    nodes.node("Identity", data, outputs=operator.output_full_names)


def bins(scope: Any, operator: Any, container: Any) -> None:
    """KBinsDiscretizer: how many of its feature's inner edges a value reaches, in float64."""
    from onnx import TensorProto

    nodes, model = Nodes(scope, container), operator.raw_operator
    given = nodes.node("Cast", operator.inputs[0].full_name, to=TensorProto.DOUBLE)
    inner = [edges[1:-1] for edges in model.bin_edges_]
    edges = np.full((len(inner), max(1, *map(len, inner))), np.inf)
    for row, values in zip(edges, inner, strict=True):
        row[: len(values)] = values
    column = nodes.node("Unsqueeze", given, nodes.integers([2]))
    reached = nodes.node("GreaterOrEqual", column, nodes.constant(edges, double=True))
    kind = TensorProto.DOUBLE if _is_double(operator) else TensorProto.FLOAT
    codes = nodes.node("Cast", reached, to=kind)
    codes = nodes.node("ReduceSum", codes, nodes.integers([2]), keepdims=0)
    if model.encode != "ordinal":
        counts = [int(count) for count in model.n_bins_]
        features = [feature for feature, count in enumerate(counts) for _ in range(count)]
        places = np.array([place for count in counts for place in range(count)], dtype=float)
        wide = nodes.node("Gather", codes, nodes.integers(features), axis=1)
        equal = nodes.node("Equal", wide, nodes.constant(places, double=_is_double(operator)))
        codes = nodes.node("Cast", equal, to=kind)
    nodes.node("Identity", codes, outputs=operator.output_full_names)


def isotonic(
    scope: Any,
    container: Any,
    model: Any,
    scores: str,
    k: int,
    dtype: Any,
    proto_type: Any,  # noqa: ARG001 - as skl2onnx calls it
) -> str:
    """The k-th calibrator of isotonic regression: scores [rows, 1] to probabilities [rows, 1].

    f(x) is the value at the first point and, for each piece, its slope times as much of it as
    lies below x.
    """
    nodes, double = Nodes(scope, container), dtype == np.float64
    found = model.calibrators[k]
    x, y = np.asarray(found.X_thresholds_, float), np.asarray(found.y_thresholds_, float)
    if len(x) == 1:
        x, y = np.array([x[0], x[0] + 1]), np.array([y[0], y[0]])
    column = nodes.node("Reshape", scores, nodes.integers([-1, 1]))
    low, high = (nodes.constant(ends[None], double=double) for ends in (x[:-1], x[1:]))
    covered = nodes.node("Sub", nodes.node("Min", nodes.node("Max", column, low), high), low)
    slopes = nodes.constant((np.diff(y) / np.diff(x))[:, None], double=double)
    risen = nodes.node("MatMul", covered, slopes)
    return nodes.node("Add", risen, nodes.constant(y[:1], double=double))


def _sgd(plain: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
    """The converter of SGDClassifier, which leaves what has no probabilities to the plain one."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        model = operator.raw_operator
        raw = container.get_options(model, {"raw_scores": False})["raw_scores"]
        if raw or model.loss not in ("log_loss", "modified_huber"):
            plain(scope, operator, container)
            return
        nodes, double = Nodes(scope, container), _is_double(operator)
        scores = _scores(nodes, operator, double=double)
        if model.loss == "log_loss":
            made = _logistic(nodes, scores, binary=len(model.classes_) == 2, double=double)
        else:
            made = _huber(nodes, scores, container, binary=len(model.classes_) == 2, double=double)
        nodes.node("Identity", made, outputs=[operator.outputs[1].full_name])
        index = nodes.node("ArgMax", scores, axis=1, keepdims=0)
        labels = _labels(nodes, model.classes_)
        nodes.node("Gather", labels, index, outputs=[operator.outputs[0].full_name], axis=0)

    convert.is_ours = True  # type: ignore[attr-defined]
    return convert


def _labels(nodes: Nodes, classes: NDArray[Any]) -> str:
    if classes.dtype.kind in "iubf":
        return nodes.integers([int(label) for label in classes])
    return nodes.strings([str(label) for label in classes])


def _scores(nodes: Nodes, operator: Any, *, double: bool) -> str:
    """Scores [rows, classes]; of two classes the first has 0, and so wins a tie."""
    from onnx import TensorProto

    model = operator.raw_operator
    coefficients, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(coefficients) == 1:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    given = nodes.node("Cast", operator.inputs[0].full_name, to=kind)
    product = nodes.node("MatMul", given, nodes.constant(coefficients.T, double=double))
    return nodes.node("Add", product, nodes.constant(intercept, double=double))


def _logistic(nodes: Nodes, scores: str, *, binary: bool, double: bool) -> str:
    """Logistic functions of the scores over their sum, by their logarithms: where all of them
    vanish, their ratios do not. For two classes softmax of 0 and the score is the same.
    """
    if binary:
        return nodes.node("Softmax", scores, axis=1)
    one = nodes.constant(np.ones(1), double=double)
    tail = nodes.node("Exp", nodes.node("Neg", nodes.node("Abs", scores)))
    soft = nodes.node("Log", nodes.node("Add", one, tail))
    steep = nodes.node("Relu", nodes.node("Neg", scores))
    return nodes.node("Softmax", nodes.node("Neg", nodes.node("Add", soft, steep)), axis=1)


def _huber(nodes: Nodes, scores: str, container: Any, *, binary: bool, double: bool) -> str:
    """(clip(score, -1, 1) + 1) / 2 over the sum of all; even where all of them vanish."""
    one, half = (nodes.constant(np.full(1, value), double=double) for value in (1.0, 0.5))
    least = nodes.node("Neg", one)
    clipped = nodes.node("Min", nodes.node("Max", scores, least), one)
    made = nodes.node("Mul", nodes.node("Add", clipped, one), half)
    if binary:
        second = nodes.node("Gather", made, nodes.integers([1]), axis=1)
        return nodes.node("Concat", nodes.node("Sub", one, second), second, axis=1)
    none = nodes.node("Sub", one, nodes.node("Sign", _reduced(nodes, "ReduceL1", made, container)))
    made = nodes.node("Add", made, none)
    return nodes.node("Div", made, _reduced(nodes, "ReduceL1", made, container))


def _reduced(nodes: Nodes, kind: str, data: str, container: Any) -> str:
    """A norm of each row [rows, 1]; from opset 18 on the axes are an input."""
    if container.target_opset >= 18:
        return nodes.node(kind, data, nodes.integers([1]), keepdims=1)
    return nodes.node(kind, data, axes=[1], keepdims=1)


def _is_double(operator: Any) -> bool:
    return type(operator.inputs[0].type).__name__ == "DoubleTensorType"
