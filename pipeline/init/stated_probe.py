"""A look at a model whose source tells its inputs: Keras, TensorFlow, scikit-learn, TFLite."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.config.sources import SOURCES_SCHEMA
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.init import names
from crosscast.pipeline.init.facts import Facts, Input, Size
from crosscast.pipeline.init.limits import of_layers, of_onnx
from crosscast.pipeline.init.onnx_trace import Graph, operators, refined
from crosscast.pipeline.init.settle import runs, settled
from crosscast.pipeline.signature import Layout, Signature, Tensor
from crosscast.pipeline.sources import open_source
from crosscast.targets.base import Delivered
from crosscast.targets.families import onnx as trees
from crosscast.targets.families import tflite_copy, tflite_runtime

CALLED = {
    "keras": "A Keras model",
    "tensorflow": "A TensorFlow model",
    "sklearn": "A scikit-learn estimator",
    "tflite": "A TFLite file",
}


def look(keys: Mapping[str, Any], options: Mapping[str, Any]) -> Facts:
    """What the model says of itself, with sizes that it was run with.

    keys: of the config's source. options: those keys as stages take them.
    """
    layout = SOURCES_SCHEMA[options["kind"]].layout
    found = open_source(options).signature(source=options, declared=Signature(inputs=()))
    guess = tuple(_input(tensor, layout) for tensor in found.inputs)
    inputs, dims = settled(guess, sizes(guess, found), runs(options, layout))
    facts = Facts(
        source=keys,
        inputs=inputs,
        dims=dims,
        held=_held(Path(options["model"])) if options["kind"] == "tflite" else "fp32",
        notes=(f"{CALLED[options['kind']]}.",),
    )
    return _exported(facts, options, layout)


def _held(path: Path) -> Delivered:
    """What a TFLite file keeps its weights in."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, tflite_copy.MODEL).symlink_to(path)
        return tflite_runtime.precision(artifact=Path(folder)).delivered


def sizes(inputs: Sequence[Input], found: Signature) -> dict[str, tuple[Size, ...]]:
    """Candidates for each dynamic dimension, most wanted first; what the source says comes last."""
    candidates: dict[str, tuple[Size, ...]] = {}
    for one, tensor in zip(inputs, found.inputs, strict=True):
        for axis, (dim, its) in enumerate(zip(one.shape, tensor.shape, strict=True)):
            if isinstance(dim, str):
                mine = names.sizes_of(
                    dim, axis=axis, shape=one.shape, dtype=one.dtype, owner=one.name
                )
                said = found.dims.get(str(its))
                candidates.setdefault(dim, (*mine, said) if said else mine)
    return candidates


def _input(tensor: Tensor, layout: Layout) -> Input:
    shape = tuple(
        size
        if isinstance(size, int)
        else names.dimension(size, axis=axis, shape=tensor.shape, dtype=tensor.dtype, layout=layout)
        for axis, size in enumerate(tensor.shape)
    )
    bounds, why = names.range_of(tensor.name, tensor.dtype, shape)
    if tensor.range is not None:
        bounds, why = tensor.range, "the model tells it"
    return Input(name=tensor.name, shape=shape, dtype=tensor.dtype, range=bounds, why=why)


def _exported(facts: Facts, options: Mapping[str, Any], layout: Layout) -> Facts:
    """The facts with what the model's ONNX graph shows; as they are where it has none."""
    source = open_source(options)
    reason = ""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StageError):
        try:
            source.export(
                to="onnx",
                source=options,
                signature=facts.signature(layout),
                outputs=None,
                opset=None,
                layout=None,
                program=None,
                out=Path(folder),
            )
        except StageError as error:
            reason = error.message.partition("\n")[0]
            raise
        return _with_graph(facts, trees.load(Path(folder)))
    limits = {**of_layers({"MatMul": 1}, facts.inputs, 0), "onnx": reason}
    return replace(facts, operators={}, limits=limits)


def _with_graph(facts: Facts, model: Any) -> Facts:
    graph = Graph(model)
    counts, weights = operators(graph), model.ByteSize()
    inputs = tuple(refined(one, graph) for one in facts.inputs)
    return replace(
        facts,
        inputs=inputs,
        operators=counts,
        weights=weights,
        limits=of_onnx(counts, inputs, weights),
    )
