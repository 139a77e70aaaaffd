"""Operators of ai.onnx.ml in terms of standard ones, which every converter takes. In place.

Linear models, scalers, norms and the picking of columns are lowered; trees and support vectors
have no equivalent that is worth its size, and stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ML = "ai.onnx.ml"


class _Lowering:
    """Writes what stands in for one node."""

    def __init__(self, graph: Any, node: Any, *, opset: int, ranks: dict[str, int]) -> None:
        self.node = node
        self.opset = opset
        self.rank = ranks.get(node.input[0], 2)
        self.attributes = {entry.name: entry for entry in node.attribute}
        self._graph = graph
        self._count = 0

    def add(
        self, kind: str, *inputs: str, outputs: Sequence[str] | None = None, **attributes: Any
    ) -> str:
        """Add a node; gives its output's name."""
        from onnx import helper

        made = list(outputs or [self._name(kind)])
        self._graph.node.append(
            helper.make_node(kind, list(inputs), made, name=f"{made[0]}_{kind}", **attributes)
        )
        return made[0]

    def constant(self, array: NDArray[Any]) -> str:
        """Add an initializer; gives its name."""
        from onnx import numpy_helper

        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def floats(self, name: str) -> NDArray[np.float32]:
        """An attribute of floats; empty where it is not there."""
        entry = self.attributes.get(name)
        return np.array(entry.floats if entry else [], dtype=np.float32)

    def text(self, name: str, default: str) -> str:
        """An attribute that is a word."""
        entry = self.attributes.get(name)
        return entry.s.decode() if entry else default

    def given(self) -> str:
        """The first input in float32, as these operators compute."""
        from onnx import TensorProto

        return self.add("Cast", self.node.input[0], to=TensorProto.FLOAT)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self.node.output[0]}_{kind}{self._count}"


def lower(model: Any, *, opset: int) -> None:
    """Replace each operator that the table below knows."""
    graph = model.graph
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        rule = _RULES.get(node.op_type) if node.domain == ML else None
        if rule is None or not rule(_Lowering(graph, node, opset=opset, ranks=ranks)):
            graph.node.append(node)
    used = {node.domain for node in graph.node}
    kept = [entry for entry in model.opset_import if entry.domain != ML or ML in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _scaler(to: _Lowering) -> bool:
    shifted = to.add("Sub", to.given(), to.constant(to.floats("offset")))
    to.add("Mul", shifted, to.constant(to.floats("scale")), outputs=to.node.output)
    return True


def _linear(to: _Lowering, rows: int) -> str:
    weights = to.floats("coefficients").reshape(rows, -1).T.copy()
    product = to.add("MatMul", to.given(), to.constant(weights))
    bias = to.floats("intercepts")
    return to.add("Add", product, to.constant(bias)) if bias.size else product


def _regressor(to: _Lowering) -> bool:
    if to.text("post_transform", "NONE") != "NONE":
        return False
    targets = to.attributes["targets"].i if "targets" in to.attributes else 1
    to.add("Identity", _linear(to, targets), outputs=to.node.output)
    return True


def _classifier(to: _Lowering) -> bool:
    """Where each class has a score of its own."""
    transforms = {"NONE": "Identity", "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}
    transform = transforms.get(to.text("post_transform", "NONE"))
    labels = _labels(to)
    if transform is None or to.floats("intercepts").size != len(labels):
        return False
    scores = _linear(to, len(labels))
    axis = {"axis": 1} if transform == "Softmax" else {}
    to.add(transform, scores, outputs=[to.node.output[1]], **axis)
    best = to.add("ArgMax", scores, axis=1, keepdims=0)
    to.add("Gather", to.constant(labels), best, outputs=[to.node.output[0]], axis=0)
    return True


def _labels(to: _Lowering) -> NDArray[Any]:
    if "classlabels_strings" in to.attributes:
        texts = [text.decode() for text in to.attributes["classlabels_strings"].strings]
        return np.array(texts, dtype=object)
    return np.array(to.attributes["classlabels_ints"].ints, dtype=np.int64)


def _normalizer(to: _Lowering) -> bool:
    """Each row over its norm; a row of zeros stays one."""
    kind = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}[to.text("norm", "MAX")]
    given, one = to.given(), to.constant(np.ones(1, dtype=np.float32))
    magnitude = to.add("Abs", given) if kind == "ReduceMax" else given
    if to.opset >= 18:
        norm = to.add(kind, magnitude, to.constant(np.array([1])), keepdims=1)
    else:
        norm = to.add(kind, magnitude, axes=[1], keepdims=1)
    empty = to.add("Sub", one, to.add("Sign", norm))
    to.add("Div", given, to.add("Add", norm, empty), outputs=to.node.output)
    return True


def _extractor(to: _Lowering) -> bool:
    """Columns along the last axis; what is picked of a vector is a row."""
    places = to.add("Reshape", to.node.input[1], to.constant(np.array([-1])))
    if to.rank == 1:
        picked = to.add("Gather", to.node.input[0], places, axis=0)
        to.add("Reshape", picked, to.constant(np.array([1, -1])), outputs=to.node.output)
    else:
        to.add("Gather", to.node.input[0], places, outputs=to.node.output, axis=-1)
    return True


_RULES: dict[str, Callable[[_Lowering], bool]] = {
    "Scaler": _scaler,
    "LinearRegressor": _regressor,
    "LinearClassifier": _classifier,
    "Normalizer": _normalizer,
    "ArrayFeatureExtractor": _extractor,
}
