"""Classifiers of trees and forests to ONNX with the answers of scikit-learn, ties included.

One operator finds the leaf of every tree. The leaves' probabilities are summed in float64, tree by
tree as scikit-learn does, and the label is the first class that has the greatest: sums in float32
decide otherwise where two classes come to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.sources.sklearn_nodes import Nodes

ALIASES = (
    "SklearnDecisionTreeClassifier", "SklearnExtraTreeClassifier", "SklearnExtraTreesClassifier",
    "SklearnRandomForestClassifier",
)  # fmt: skip
"""What skl2onnx calls the estimators that `convert` is for."""


def convert(scope: Any, operator: Any, container: Any) -> None:
    """One tree or a forest, of one target or several: features [rows, features] to labels [rows]
    and probabilities [rows, classes], or [rows, targets] and [targets, rows, classes] padded by 0.
    """
    from onnx import TensorProto

    nodes, model = Nodes(scope, container), operator.raw_operator
    trees = [part.tree_ for part in getattr(model, "estimators_", [model])]
    summed = _summed(nodes, _leaves(nodes, operator.inputs[0].full_name, trees), trees)
    if len(trees) > 1:
        count = nodes.constant(np.full(1, len(trees)), double=True)
        summed = nodes.node("Div", summed, count)
    labels, probabilities = (output.full_name for output in operator.outputs)
    several = isinstance(model.classes_, list)
    targets = model.classes_ if several else [model.classes_]
    found = nodes.node("Gather", *_labelled(nodes, summed, targets))
    nodes.node("Reshape", found, nodes.integers([-1, len(targets)] if several else [-1]),
               outputs=[labels])  # fmt: skip
    if several:
        summed = nodes.node("Transpose", summed, perm=[1, 0, 2])
    else:
        summed = nodes.node("Reshape", summed, nodes.integers([-1, len(targets[0])]))
    double = type(operator.inputs[0].type).__name__ == "DoubleTensorType"
    kind = TensorProto.DOUBLE if double else TensorProto.FLOAT
    nodes.node("Cast", summed, to=kind, outputs=[probabilities])


def thresholds(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Each as the greatest float32 that is no greater: x <= t says the same of any float32 x."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


def _leaves(nodes: Nodes, features: str, trees: Sequence[Any]) -> str:
    """The leaf that each tree comes to [rows, trees]; a tree's leaves count on from those of the
    trees before it. The operator gives them within each tree, which float32 holds up to 2**24.
    """
    from onnx import TensorProto

    columns = [_columns(index, tree) for index, tree in enumerate(trees)]
    joined = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
    given = nodes.node("Cast", features, to=TensorProto.FLOAT)
    within = nodes.node(
        "TreeEnsembleRegressor", given, domain="ai.onnx.ml", n_targets=len(trees),
        **{name: values.tolist() for name, values in joined.items()},
    )  # fmt: skip
    within = nodes.node("Cast", within, to=TensorProto.INT64)
    starts = np.cumsum([0, *(int(_is_leaf(tree).sum()) for tree in trees[:-1])])
    return nodes.node("Add", within, nodes.integers(starts.tolist()))


def _columns(index: int, tree: Any) -> dict[str, Any]:
    """The operator's attributes for one tree, whose target is its own."""
    leaf, numbers = _is_leaf(tree), np.arange(tree.node_count)
    ends = numbers[leaf]
    missing = getattr(tree, "missing_go_to_left", np.zeros(len(numbers)))
    modes = np.array(["BRANCH_LEQ", "LEAF"], dtype=object)
    return {
        "nodes_treeids": np.full(len(numbers), index),
        "nodes_nodeids": numbers,
        "nodes_featureids": np.where(leaf, 0, tree.feature),
        "nodes_modes": modes[leaf.astype(int)],
        "nodes_values": np.where(leaf, np.float32(0), thresholds(tree.threshold)),
        "nodes_truenodeids": np.where(leaf, 0, tree.children_left),
        "nodes_falsenodeids": np.where(leaf, 0, tree.children_right),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, missing).astype(int),
        "target_treeids": np.full(len(ends), index),
        "target_nodeids": ends,
        "target_ids": np.full(len(ends), index),
        "target_weights": np.arange(len(ends), dtype=np.float32),
    }


def _is_leaf(tree: Any) -> NDArray[np.bool_]:
    return np.asarray(tree.children_left < 0)


def _summed(nodes: Nodes, leaves: str, trees: Sequence[Any]) -> str:
    """The sum over the trees of their leaves' probabilities [rows, targets, classes], in float64.

    CumSum adds one after another, where ReduceSum is free to pair.
    """
    table = np.concatenate([tree.value[_is_leaf(tree)] for tree in trees])
    each = nodes.node("Gather", nodes.constant(table, double=True), leaves, axis=0)
    if len(trees) > 1:
        each = nodes.node("CumSum", each, nodes.scalar(1))
    return nodes.node("Gather", each, nodes.scalar(len(trees) - 1), axis=1)


def _labelled(nodes: Nodes, scores: str, targets: Sequence[NDArray[Any]]) -> tuple[str, str]:
    """All targets' labels in one list, and where in it each row's are [rows, targets]."""
    widths = [len(classes) for classes in targets]
    starts = np.cumsum([0, *widths[:-1]])
    best = nodes.node("ArgMax", scores, axis=2, keepdims=0)
    places = nodes.node("Add", best, nodes.integers(starts.tolist()))
    labels = [label for classes in targets for label in classes]
    if isinstance(labels[0], str):
        return nodes.strings([str(label) for label in labels]), places
    return nodes.integers([int(label) for label in labels]), places
