"""scikit-learn's linear models and preprocessing (ai.onnx.ml)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import cast, kind, rank, select, shape


def linear_regressor(node: Node) -> Operand:
    """X · coefficients + intercepts."""
    targets = node.attribute("targets", 1)
    made = _linear(node, targets, node.attribute("coefficients"), node.attribute("intercepts"))
    return transformed(node, made, node.attribute("post_transform", "NONE"))


def linear_classifier(node: Node) -> tuple[Operand, Operand]:
    """The class and the scores of all classes."""
    labels = labels_of(node)
    node.ignore("multi_class")  # says how it was trained
    coefficients = node.attribute("coefficients")
    intercepts = node.attribute("intercepts")
    count = len(intercepts) if intercepts else max(len(labels), 1)
    scores = _linear(node, count, coefficients, intercepts)
    return classified(node, scores, labels, node.attribute("post_transform", "NONE"))


def scaler(node: Node) -> Operand:
    """(x - offset) · scale."""
    x = cast(node, node.x(), "fp32")
    offset = np.array(node.attribute("offset", [0.0]), np.float32)
    scale = np.array(node.attribute("scale", [1.0]), np.float32)
    return node.mb.mul(x=node.mb.sub(x=x, y=offset), y=scale)


def normalizer(node: Node) -> Operand:
    """Each row divided by its norm; 0 stays 0."""
    x, norm = cast(node, node.x(), "fp32"), node.attribute("norm", "MAX")
    names = {"MAX": "reduce_max", "L1": "reduce_l1_norm", "L2": "reduce_l2_norm"}
    if norm not in names:
        raise node.refused(f"attribute norm={norm} is not supported")
    size = getattr(node.mb, names[norm])(x=x, axes=[-1], keep_dims=True)
    empty = node.mb.equal(x=size, y=np.float32(0))
    return node.mb.real_div(x=x, y=node.mb.add(x=size, y=node.mb.cast(x=empty, dtype="fp32")))


def binarizer(node: Node) -> Operand:
    """1 above a threshold, else 0."""
    above = node.mb.greater(x=node.x(), y=_like(node, node.attribute("threshold", 0.0)))
    return cast(node, above, kind(node.x()))


def imputer(node: Node) -> Operand:
    """Missing numbers replaced by given ones."""
    x = node.x()
    whole = node.attribute("imputed_value_int64s") if kind(x) == "int32" else None
    values = whole or node.attribute("imputed_value_floats")
    name = "replaced_value_int64" if whole else "replaced_value_float"
    missing = node.attribute(name, 0)
    if not values:
        raise node.refused("without values to put in")
    filling = node.mil(np.array(values))
    if missing != missing:
        gone = node.mb.not_equal(x=x, y=x)
    else:
        gone = node.mb.equal(x=x, y=_like(node, missing))
    return select(node, gone, filling if len(values) > 1 else filling[0], x)


def label_encoder(node: Node) -> Operand:
    """Integers to integers or floats, one by one."""
    keys = node.attribute("keys_int64s")
    values, default = node.attribute("values_int64s"), node.attribute("default_int64", -1)
    if values is None:
        values, default = node.attribute("values_floats"), node.attribute("default_float", 0.0)
    if keys is None or values is None or kind(node.x()) != "int32":
        raise node.refused("between dtypes other than integers, or to text")
    found = node.mil(np.array(default))
    result: Operand = found
    for key, value in zip(keys, values, strict=True):
        same = node.mb.equal(x=node.x(), y=np.int32(key))
        result = select(node, same, node.mil(np.array(value)), result)
    return result


def one_hot_encoder(node: Node) -> Operand:
    """A column for each known category; none for others."""
    categories = node.attribute("cats_int64s")
    if not categories or kind(node.x()) == "bool":
        raise node.refused("of text is not supported")
    node.only("zeros", 1)
    wide = node.mb.expand_dims(x=cast(node, node.x(), "int32"), axes=[-1])
    return cast(node, node.mb.equal(x=wide, y=np.array(categories, np.int32)), "fp32")


def concatenated(node: Node) -> Operand:
    """FeatureVectorizer: columns next to each other, as floats."""
    node.ignore("inputdimensions")
    parts = [cast(node, one, "fp32") for one in node.every()]
    return node.mb.concat(values=parts, axis=1) if len(parts) > 1 else parts[0]


def labels_of(node: Node) -> list[int]:
    """The classes. Raises StageError where they are text."""
    for name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
        labels = node.attribute(name)
        if labels and name == "classlabels_strings":
            raise node.refused(
                "its classes are text, which Core ML has not",
                "train it on integer classes, or remove this target",
            )
        if labels:
            return list(labels)
    return []


def classified(
    node: Node, scores: Operand, labels: list[int], post: str
) -> tuple[Operand, Operand]:
    """The class and the scores [rows, classes]; one score decides between two classes."""
    if shape(scores)[1] == 1 and len(labels) in (1, 2):
        return _of_two(node, scores, labels, post)
    best = node.mb.reduce_argmax(x=scores, axis=1, keep_dims=False)
    if labels != list(range(len(labels))):
        best = node.mb.gather(x=node.mil(np.array(labels)), indices=best, axis=0)
    return best, transformed(node, scores, post)


def transformed(node: Node, scores: Operand, post: str) -> Operand:
    """The scores after a function of them."""
    if post == "NONE":
        return node.mb.identity(x=scores)
    if post == "LOGISTIC":
        return node.mb.sigmoid(x=scores)
    if post == "SOFTMAX":
        return node.mb.softmax(x=scores, axis=-1)
    raise node.refused(f"attribute post_transform={post} is not supported")


def _of_two(node: Node, scores: Operand, labels: list[int], post: str) -> tuple[Operand, Operand]:
    mb = node.mb
    if post == "LOGISTIC":
        positive = mb.sigmoid(x=scores)
        both = mb.concat(values=[mb.sub(x=np.float32(1), y=positive), positive], axis=1)
    elif post == "NONE":
        both = mb.concat(values=[mb.mul(x=scores, y=np.float32(-1)), scores], axis=1)
    else:
        raise node.refused(f"attribute post_transform={post} of one score is not supported")
    chosen = mb.greater(x=mb.squeeze(x=scores, axes=[1]), y=np.float32(0))
    low, high = labels if len(labels) == 2 else [0, labels[0]]
    return select(node, chosen, _whole(node, scores, high), np.int32(low)), both


def _whole(node: Node, scores: Operand, value: int) -> Operand:
    """One integer for each row."""
    ones = node.mb.cast(x=node.mb.squeeze(x=scores, axes=[1]), dtype="int32")
    return node.mb.add(x=node.mb.mul(x=ones, y=np.int32(0)), y=np.int32(value))


def _linear(node: Node, count: int, coefficients: Any, intercepts: Any) -> Operand:
    x = cast(node, node.x(), "fp32")
    if rank(x) != 2 or not coefficients:
        raise node.refused(f"an input of rank {rank(x)}; rows of features are what it takes")
    weight = np.array(coefficients, np.float32).reshape(count, -1)
    if not intercepts:
        return node.mb.linear(x=x, weight=weight)
    return node.mb.linear(x=x, weight=weight, bias=np.array(intercepts, np.float32))


def _like(node: Node, value: float) -> Any:
    return np.float32(value) if kind(node.x()) == "fp32" else np.int32(value)


TABLE: Mapping[str, Operator] = {
    "ai.onnx.ml.Binarizer": binarizer,
    "ai.onnx.ml.FeatureVectorizer": concatenated,
    "ai.onnx.ml.Imputer": imputer,
    "ai.onnx.ml.LabelEncoder": label_encoder,
    "ai.onnx.ml.LinearClassifier": linear_classifier,
    "ai.onnx.ml.LinearRegressor": linear_regressor,
    "ai.onnx.ml.Normalizer": normalizer,
    "ai.onnx.ml.OneHotEncoder": one_hot_encoder,
    "ai.onnx.ml.Scaler": scaler,
}
