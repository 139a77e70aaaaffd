"""Stage: calibration samples in other ranges than the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.parity.samples import Case, read_cases, write_cases
from crosscast.pipeline.parity.vectors import read_signature
from crosscast.pipeline.stages import StageResult
from mutants.batch import slug

Range = tuple[float, float]

RANGES: Mapping[str, Callable[[Any, Range], Any]] = {
    "calibrated on a tenth": lambda array, _: array * 0.1,
    "calibrated on ten times": lambda array, _: array * 10,
    "calibrated on 0 to 255": lambda array, ends: (array - ends[0]) / (ends[1] - ends[0]) * 255,
}
"""By the mutation's name: what a float input becomes, given its declared range."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write a batch of the tree `samples`, its float inputs put through RANGES."""
    declared = {it.name: it.range for it in read_signature(inputs["reference"]).inputs}
    for name in options["mutations"]:
        write_cases(_changed(inputs["samples"], RANGES[name], declared), out=out / slug(name))
    return StageResult()


def _changed(
    samples: Path, change: Callable[[Any, Range], Any], declared: Mapping[str, Range | None]
) -> Iterator[Case]:
    for case in read_cases(samples):
        arrays = {
            name: change(array, declared[name] or (-1.0, 1.0)).astype(array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in case.arrays.items()
        }
        yield replace(case, arrays=arrays)
