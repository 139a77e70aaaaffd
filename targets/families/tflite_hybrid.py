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

from crosscast.targets.base import KEPT, NOTES, SAID
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.search import Kept
from crosscast.targets.families.sensitivity import LEVELS
from crosscast.targets.families.tflite import FILE
from crosscast.targets.families.tflite_bias import corrected
from crosscast.targets.families.tflite_copy import shipped_as_it_is
from crosscast.targets.families.tflite_dynamic import HYBRID, quantize_weights
from crosscast.targets.families.tflite_sensitivity import Trial

TOLD: Mapping[bool, dict[str, str]] = {
    False: {"biases": "corrected"},
    True: {"biases": "corrected", "arithmetic": "float"},
}
"""What the notes of a file are, by whether it computes in float."""

SAYS: Mapping[bool, str] = {
    False: "int8 leaves answers little room: biases are fitted to samples",
    True: "int8 leaves answers little room: biases are fitted to samples, and weights are given "
    "back as floats before they are computed with",
}
"""The same for people."""


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
    made, kept = _made(content, Kept()), Kept()
    if samples is not None:
        made, kept = _chosen(content, made, samples)
    out.mkdir(parents=True, exist_ok=True)
    files.write(made, out / FILE)
    if kept.corrected:
        notes = {KEPT: TOLD[kept.is_float], SAID: SAYS[kept.is_float]}
        (out / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


def _chosen(content: bytes, plain: Any, samples: Path) -> tuple[Any, Kept]:
    """The file's objects as they are, where these leave ample room to int8's limits, or corrected,
    or computing in float: the first way that leaves room, or else the one that leaves most.
    plain: the objects of the first way.
    """
    trial = Trial(content, samples)
    best = trial.room(files.packed(plain)), plain, Kept()
    if best[0].reaches(LEVELS[-1]):
        return plain, Kept()
    biased = corrected(content, samples)
    for kept in (Kept(corrected=True), Kept(_hybrid(content), True, True)):
        made = _made(biased, kept)
        best = min(best, (trial.room(files.packed(made)), made, kept), key=lambda way: way[0].cost)
        if best[0].reaches(LEVELS[-1]):
            break
    return best[1:]


def _made(content: bytes, kept: Kept) -> Any:
    """The objects of the file with int8 weights."""
    made = files.parse(content)
    quantize_weights(made, unfolded=kept.names)
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
