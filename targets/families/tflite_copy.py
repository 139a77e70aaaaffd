"""TFLite files that were TFLite from the start: their ports named, and shipped as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import Delivered
from crosscast.targets.families.tflite_finish import make_names_unique, sign

MODEL = "model.tflite"


def copied(model: Path, out: Path) -> None:
    """Write the file of the tree `model` under `out`, byte for byte."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model / MODEL, out / MODEL)


def shipped_as_it_is(model: Path, wanted: Delivered, out: Path) -> bool:
    """Copy the file of a tree that holds its weights in the wanted precision already, and say so.

    Raises StageError for one that holds them in another one than that and float32.
    """
    held = _held(model)
    if held == "fp32":
        return False
    if held != wanted:
        raise StageError(
            f"the TFLite file is {held} already: its float32 weights are lost",
            fix=f"use tflite-{held}, which ships it as it is",
        )
    copied(model, out)
    return True


def _held(model: Path) -> Delivered:
    from crosscast.targets.families.tflite_runtime import precision  # which imports the family

    return precision(artifact=model).delivered


def name_ports(model: Any, *, subgraph: int, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the ports of a subgraph these names, and the model one signature of them.

    That subgraph becomes the first. Works in place.
    """
    _bring_first(model, subgraph)
    graph = model.subgraphs[0]
    _separate_outputs(graph)
    for names, indices in ((inputs, graph.inputs), (outputs, graph.outputs)):
        for name, index in zip(names, indices, strict=True):
            graph.tensors[index].name = name
    make_names_unique(graph)
    sign(model, graph)


def _bring_first(model: Any, number: int) -> None:
    """Swap a subgraph with the first, and all that names either of them."""
    if number == 0:
        return
    swapped = {0: number, number: 0}
    model.subgraphs[0], model.subgraphs[number] = model.subgraphs[number], model.subgraphs[0]
    for graph in model.subgraphs:
        for operator in graph.operators:
            for options in (operator.builtinOptions, operator.builtinOptions2):
                for key, value in vars(options or object).items():
                    if key.endswith("ubgraphIndex"):
                        setattr(options, key, swapped.get(value, value))


def _separate_outputs(graph: Any) -> None:
    """Refuse a tensor that is two ports at once: they would need two names."""
    ports = [int(index) for index in (*graph.inputs, *graph.outputs)]
    if len(set(ports)) < len(ports):
        raise StageError(
            "the TFLite file gives one tensor out twice, or an input as it came",
            fix="leave that output out of the model",
        )
