"""Stage: the user's samples, checked, and the cases made beside them, as a tree of cases."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.given import npz_samples, real_case
from crosscast.pipeline.parity.samples import (
    Case,
    assumed_ranges,
    parity_cases,
    write_cases,
)
from crosscast.pipeline.signature import Layout, Signature, permute
from crosscast.pipeline.sources import open_source
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.worker.usercode import call, load_function, own_files

_END = object()
_WHAT = "samples function"


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write the cases for `options["purpose"]`.

    parity: the real samples, batches stacked of them, synthetic inputs where there are no samples
    or where other dimensions are dynamic, adversarial inputs. calibration: real samples only,
    in the layout of the model that they calibrate (`options["layout"]`, None: the source's).
    Raises StageError where a sample does not fit the model's inputs, and where there are none.
    """
    signature = _signature(options)
    spec = options["samples"]
    real = _real(spec, inputs, signature) if spec else iter(())
    if options["purpose"] == "calibration":
        if not spec:
            raise StageError("calibration needs real samples", fix="set samples.calibration")
        counts = write_cases(_laid_out(real, signature, options["layout"]), out=out)
    else:
        counts = write_cases(parity_cases(real, signature=signature), out=out)
    assumed = assumed_ranges(signature)
    return StageResult(
        dependencies=own_files(),
        notes={"cases": counts, "assumed": assumed if set(counts) - {"real"} else []},
    )


def _laid_out(cases: Iterable[Case], signature: Signature, layout: Layout | None) -> Iterator[Case]:
    for case in cases:
        arrays = permute(case.arrays, tensors=signature.inputs, layout=layout)
        yield replace(case, arrays=arrays)


def _signature(options: Mapping[str, Any]) -> Signature:
    source, declared = options["source"], Signature.from_json(options["signature"])
    return open_source(source).signature(source=source, declared=declared)


def _real(spec: str, inputs: Mapping[str, Path], signature: Signature) -> Iterator[Case]:
    given = _npz(inputs.get("samples", Path(spec)), signature) if _is_npz(spec) else _yielded(spec)
    index = -1
    for index, sample in enumerate(given):
        yield real_case(sample, signature=signature, index=index)
    if index < 0:
        raise StageError(f"{spec} gives no sample", fix="give at least one, or leave samples out")


def _is_npz(spec: str) -> bool:
    return spec.endswith(".npz")


def _yielded(spec: str) -> Iterator[Any]:
    samples = call(load_function(spec), what=_WHAT)
    if isinstance(samples, Mapping | str) or not isinstance(samples, Iterable):
        raise StageError(
            f"{spec} gives a {type(samples).__name__}, not several samples",
            fix="yield one dict of arrays for each sample, or return a list of them",
        )
    iterator = call(iter, samples, what=_WHAT)
    while (sample := call(next, iterator, _END, what=_WHAT)) is not _END:
        yield sample


def _npz(path: Path, signature: Signature) -> Iterator[Any]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file):  # an .npy or a pickle is no zip
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False).items())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StageError(
            f"{path}: is no .npz of plain arrays: {error}",
            fix="write it with numpy.savez(path, **{input: array})",
        ) from error
    return npz_samples(arrays, signature=signature)
