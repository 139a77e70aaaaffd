"""Ensembles of decision trees: all rows walk down all trees at once, a level a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.ops.learning import classified, labels_of, transformed
from crosscast.targets.families.onnx_mil.values import cast, rank, shape, size

COMPARISONS = {
    "BRANCH_LEQ": "less_equal", "BRANCH_LT": "less", "BRANCH_GT": "greater",
    "BRANCH_GTE": "greater_equal", "BRANCH_EQ": "equal", "BRANCH_NEQ": "not_equal",
}  # fmt: skip
DEEPEST = 64
"""Levels that are still worth walking down."""


@dataclass(frozen=True, kw_only=True)
class Forest:
    """All nodes of all trees, one after the other; a leaf leads to itself.

    roots: of each tree. values: [nodes, targets], of the leaves.
    """

    roots: Any
    features: Any
    thresholds: Any
    yes: Any
    no: Any
    values: Any
    depth: int
    comparison: str


def regressor(node: Node) -> Operand:
    """TreeEnsembleRegressor: the sum, the mean, the least or the greatest of the trees' leaves."""
    forest = _forest(node, "target", int(node.attribute("n_targets", 1)))
    how = node.attribute("aggregate_function", "SUM")
    found = _leaves(node, forest)
    names = {
        "SUM": "reduce_sum",
        "AVERAGE": "reduce_mean",
        "MIN": "reduce_min",
        "MAX": "reduce_max",
    }
    if how not in names:
        raise node.refused(f"attribute aggregate_function={how} is not supported")
    total = getattr(node.mb, names[how])(x=found, axes=[1], keep_dims=False)
    made = _based(node, total)
    return transformed(node, made, node.attribute("post_transform", "NONE"))


def classifier(node: Node) -> tuple[Operand, Operand]:
    """TreeEnsembleClassifier: the class and the scores of all classes."""
    labels = labels_of(node)
    ids = node.attribute("class_ids")
    lone = len(labels) == 2 and len(set(ids)) == 1
    forest = _forest(node, "class", 1 if lone else len(labels))
    total = node.mb.reduce_sum(x=_leaves(node, forest), axes=[1], keep_dims=False)
    post = node.attribute("post_transform", "NONE")
    if not lone:
        return classified(node, _based(node, total), labels, post)
    made = _based(node, total)
    if post != "NONE":
        return classified(node, made, labels, post)
    # One score between 0 and 1: the probability of the second class.
    other = node.mb.sub(x=np.float32(1), y=made)
    both = node.mb.concat(values=[other, made], axis=1)
    second = node.mb.greater(x=node.mb.squeeze(x=made, axes=[1]), y=np.float32(0.5))
    best = node.mb.cast(x=second, dtype="int32")
    if labels != [0, 1]:
        best = node.mb.gather(x=node.mil(np.array(labels)), indices=best, axis=0)
    return best, both


def depth_of(roots: Any, yes: Any, no: Any) -> int:
    """How many steps it takes to be at a leaf of every tree; -1 where some never are."""
    level, depth = np.unique(roots), 0
    while True:
        inner = level[(yes[level] != level) | (no[level] != level)]
        if not len(inner):
            return depth
        if depth > DEEPEST:
            return -1
        level, depth = np.unique(np.concatenate([yes[inner], no[inner]])), depth + 1


def _forest(node: Node, prefix: str, targets: int) -> Forest:
    trees = np.array(node.attribute("nodes_treeids"))
    numbers = np.array(node.attribute("nodes_nodeids"))
    modes = np.array(node.attribute("nodes_modes"))
    node.ignore("nodes_hitrates")
    if any(node.attribute("nodes_missing_value_tracks_true", [])):
        raise node.refused("attribute nodes_missing_value_tracks_true is not supported")
    place = {pair: at for at, pair in enumerate(zip(trees, numbers, strict=True))}
    leaf = modes == "LEAF"
    kinds = sorted(set(modes[~leaf]))
    if len(kinds) > 1 or any(one not in COMPARISONS for one in kinds):
        raise node.refused(f"attribute nodes_modes: {', '.join(kinds)} is not supported")
    yes, no = (
        _followed(trees, node.attribute(name), leaf, place)
        for name in ("nodes_truenodeids", "nodes_falsenodeids")
    )
    values = _values(node, prefix, place, len(trees), targets)
    _, roots = np.unique(trees, return_index=True)
    depth = depth_of(roots, yes, no)
    if depth < 0:
        raise node.refused(f"its trees are more than {DEEPEST} levels deep")
    return Forest(
        roots=roots.astype(np.int32),
        features=np.where(leaf, 0, node.attribute("nodes_featureids")).astype(np.int32),
        thresholds=_thresholds(node),
        yes=yes,
        no=no,
        values=values,
        depth=depth,
        comparison=COMPARISONS[kinds[0]] if kinds else "less_equal",
    )


def _followed(trees: Any, numbers: Any, leaf: Any, place: Mapping[Any, int]) -> Any:
    return np.array(
        [
            at if leaf[at] else place[tree, number]
            for at, (tree, number) in enumerate(zip(trees, numbers, strict=True))
        ],
        np.int32,
    )


def _thresholds(node: Node) -> Any:
    found = node.attribute("nodes_values_as_tensor")
    found = node.attribute("nodes_values") if found is None else found
    return np.array(found, np.float32)


def _values(node: Node, prefix: str, place: Mapping[Any, int], nodes: int, targets: int) -> Any:
    trees, numbers = node.attribute(f"{prefix}_treeids"), node.attribute(f"{prefix}_nodeids")
    ids = node.attribute(f"{prefix}_ids")
    found = node.attribute(f"{prefix}_weights_as_tensor")
    weights = node.attribute(f"{prefix}_weights") if found is None else found
    values = np.zeros((nodes, targets), np.float32)
    single = targets == 1
    for tree, number, target, weight in zip(trees, numbers, ids, weights, strict=True):
        values[place[tree, number], 0 if single else target] += weight
    return values


def _leaves(node: Node, forest: Forest) -> Operand:
    """The values of the leaves that each row ends at: [rows, trees, targets]."""
    mb, x = node.mb, cast(node, node.x(), "fp32")
    if rank(x) != 2:
        raise node.refused(f"an input of rank {rank(x)}; rows of features are what it takes")
    at = _roots(node, x, forest.roots)
    for _ in range(forest.depth):
        column = mb.gather(x=forest.features, indices=at, axis=0)
        value = mb.gather_along_axis(x=x, indices=column, axis=1)
        limit = mb.gather(x=forest.thresholds, indices=at, axis=0)
        taken = getattr(mb, forest.comparison)(x=value, y=limit)
        at = mb.select(
            cond=taken,
            a=mb.gather(x=forest.yes, indices=at, axis=0),
            b=mb.gather(x=forest.no, indices=at, axis=0),
        )
    return mb.gather(x=forest.values, indices=at, axis=0)


def _roots(node: Node, x: Operand, roots: Any) -> Operand:
    """Where each row begins in each tree: [rows, trees]."""
    rows = shape(x)[0]
    if isinstance(rows, int):
        return node.mb.const(val=np.tile(roots, (rows, 1)))
    reps = node.mb.concat(values=[size(node, x, 0), np.array([1], np.int32)], axis=0)
    return node.mb.tile(x=roots[None], reps=reps)


def _based(node: Node, total: Operand) -> Operand:
    base = node.attribute("base_values_as_tensor")
    base = node.attribute("base_values") if base is None else base
    if base is None or not np.any(base):
        return total
    values = np.array(base, np.float32)
    if shape(total)[1] == 1 and len(values) > 1:
        values = values[-1:]
    return node.mb.add(x=total, y=values)


TABLE: Mapping[str, Operator] = {
    "ai.onnx.ml.TreeEnsembleClassifier": classifier,
    "ai.onnx.ml.TreeEnsembleRegressor": regressor,
}
