"""TFLite files with int8 weights and float activations.

LiteRT's hybrid kernels round what comes in as it comes. Where there are calibration samples, the
result is tried on them: where it costs the answers too much, biases take back what rounded weights
add, and at last the weights are given back as floats before they are computed with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.targets.base import KEPT, NOTES
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.sensitivity import LEVELS, Room
from crosscast.targets.families.tflite import FILE
from crosscast.targets.families.tflite_bias import corrected
from crosscast.targets.families.tflite_copy import shipped_as_it_is
from crosscast.targets.families.tflite_dynamic import HYBRID, quantize_weights
from crosscast.targets.families.tflite_sensitivity import Kept, Trial

TOLD: Mapping[bool, dict[str, str]] = {
    False: {"biases": "corrected"},
    True: {"biases": "corrected", "arithmetic": "float"},
}
"""What is said of a file, by whether it computes in float."""


def to_int8(
    *,
    model: Path,
    options: Mapping[str, Any],  # noqa: ARG001
    samples: Path | None,
    out: Path,
) -> None:
    """Write the file with int8 weights: a scale a channel in convolutions and matrix products, a
    scale a row in embeddings, a scale a matrix in recurrent layers. Inputs, outputs and all that
    goes between operators stay float32.

    samples: what it is tried on, where there are any.
    Raises StageError where no weights could be quantized, or too few to call it int8.
    """
    if shipped_as_it_is(model, "int8", out):
        return
    content = (model / FILE).read_bytes()
    kept = Kept() if samples is None else _chosen(content, samples)
    made = _made(content, samples, kept)
    out.mkdir(parents=True, exist_ok=True)
    files.write(made, out / FILE)
    if kept.corrected:
        notes = {KEPT: TOLD[kept.is_float]}
        (out / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


def _chosen(content: bytes, samples: Path) -> Kept:
    """The first way that leaves room to int8's limits, or else the one that leaves most."""
    trial, rooms = Trial(content, samples), dict[Kept, Room]()
    for kept in (Kept(), Kept(corrected=True), Kept(_hybrid(content), True, True)):
        rooms[kept] = trial.room(files.packed(_made(content, samples, kept)))
        if rooms[kept].reaches(LEVELS[0]):
            return kept
    return min(rooms, key=lambda kept: rooms[kept].cost)


def _made(content: bytes, samples: Path | None, kept: Kept) -> Any:
    biased = content if samples is None or not kept.corrected else corrected(content, samples)
    made = files.parse(biased)
    quantize_weights(made, unfolded=kept.operators)
    return made


def _hybrid(content: bytes) -> frozenset[str]:
    """The tensors that operators with hybrid kernels give."""
    made = files.parse(content)
    return frozenset(
        files.text(graph.tensors[operator.outputs[0]].name)
        for graph in made.subgraphs
        for operator in graph.operators
        if files.operator_name(made, operator) in HYBRID
    )
