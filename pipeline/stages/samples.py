"""Stage: the user's samples, checked, and the cases made beside them, as a tree of cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import CALIBRATION, LABELLED, write_json
from crosscast.pipeline.parity.content import ContentDigest, distinct, refuse_overlap
from crosscast.pipeline.parity.given import npz_samples, real_case
from crosscast.pipeline.parity.images import Listing, image_samples
from crosscast.pipeline.parity.labelled import folder_pair, npz_pairs, taken_apart
from crosscast.pipeline.parity.npz import open_npz
from crosscast.pipeline.parity.samples import (
    Case,
    assumed_ranges,
    synthetic,
    write_cases,
)
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.preprocess import Preprocessing
from crosscast.pipeline.signature import Layout, Signature, permute
from crosscast.pipeline.sources import open_source
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.worker.usercode import call, load_function, own_files

SYNTHETIC = "synthetic"
"""Stands for samples where calibration is to be made on drawn inputs."""

CALIBRATION_SEED = 1
"""Parity's is 0: what an artifact was calibrated on is not what it is judged on."""

CALIBRATION_CASES = 32
"""So many draws from even distributions reach within a few percent of a range's ends."""

_END = object()
_WHAT = "samples function"


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write the cases for `options["purpose"]`.

    parity: the real samples, batches stacked of them, synthetic inputs where there are no samples
    or where other dimensions are dynamic, adversarial inputs. calibration: real samples only, or
    drawn ones where the config says `synthetic`, in the layout of the model that they calibrate
    (`options["layout"]`, None: the source's), and what they are (`calibration.json`). task: the
    labelled samples, each once, and their digest (`labelled.json`).
    `options["preprocess"]`: how a folder's images become an input, by input.
    Raises StageError where a sample does not fit the model's inputs, where there are none, and
    where calibration has a sample of the trees `parity` and `labelled`.
    """
    signature = _signature(options)
    notes: dict[str, Any] = {}
    if options["purpose"] == "calibration":
        if not options["samples"]:
            raise StageError("calibration needs real samples", fix="set samples.calibration")
        notes["cases"] = _calibration(inputs, options, signature, notes, out)
    elif options["purpose"] == "task":
        notes["cases"] = _labelled(inputs, options, signature, notes, out)
    else:
        real = _real(inputs, options, signature, notes) if options["samples"] else iter(())
        notes["cases"] = write_cases(parity_cases(real, signature=signature), out=out)
    notes["assumed"] = assumed_ranges(signature) if set(notes["cases"]) - {"real"} else []
    return StageResult(dependencies=own_files(), notes=notes)


def _calibration(
    inputs: Mapping[str, Path],
    options: Mapping[str, Any],
    signature: Signature,
    notes: dict[str, Any],
    out: Path,
) -> dict[str, int]:
    drawn = options["samples"] == SYNTHETIC
    if drawn:
        cases = synthetic(signature, seed=CALIBRATION_SEED, least=CALIBRATION_CASES)
        notes["reason"] = "calibrated on inputs drawn from the declared ranges, on no real ones"
    else:
        cases = _real(inputs, options, signature, notes)
    others = {called: inputs[called] for called in ("parity", "labelled") if called in inputs}
    if others:
        cases = refuse_overlap(cases, others=others, signature=signature)
    content = ContentDigest()
    counts = write_cases(_laid_out(content.over(cases), signature, options["layout"]), out=out)
    found = {"origin": SYNTHETIC if drawn else "real", "cases": sum(counts.values())}
    write_json(out / CALIBRATION, {**found, "sha256": content.hexdigest()})
    return counts


def _labelled(
    inputs: Mapping[str, Path],
    options: Mapping[str, Any],
    signature: Signature,
    notes: dict[str, Any],
    out: Path,
) -> dict[str, int]:
    content, again = ContentDigest(), list[str]()
    cases = distinct(_real(inputs, options, signature, notes), again=again)
    counts = write_cases(content.over(cases), out=out)
    write_json(out / LABELLED, {"cases": sum(counts.values()), "sha256": content.hexdigest()})
    if again:
        notes["reason"] = f"labelled samples that are earlier ones again, left out: {len(again)}"
    return counts


def _laid_out(cases: Iterable[Case], signature: Signature, layout: Layout | None) -> Iterator[Case]:
    for case in cases:
        arrays = permute(case.arrays, tensors=signature.inputs, layout=layout)
        yield replace(case, arrays=arrays)


def _signature(options: Mapping[str, Any]) -> Signature:
    source, declared = options["source"], Signature.from_json(options["signature"])
    return open_source(source).signature(source=source, declared=declared)


def _real(
    inputs: Mapping[str, Path],
    options: Mapping[str, Any],
    signature: Signature,
    notes: dict[str, Any],
) -> Iterator[Case]:
    spec, checked = options["samples"], _checked(options, signature)
    index = -1
    is_labelled = options["purpose"] == "task"
    for index, (name, given) in enumerate(_given(inputs, options, signature, notes)):
        sample, label = taken_apart(given, index=index) if is_labelled else (given, None)
        with _folds_in_mind(options, signature):
            case = real_case(sample, signature=checked, index=index, origin=name)
        yield replace(case, label=label)
    if index < 0:
        raise StageError(f"{spec} gives no sample", fix="give at least one, or leave samples out")


def _checked(options: Mapping[str, Any], signature: Signature) -> Signature:
    """The signature with declared ranges only: one that a source made out is no promise."""
    ranges = {entry["name"]: entry.get("range") for entry in options["signature"]["inputs"]}
    inputs = tuple(
        tensor if ranges.get(tensor.name) else replace(tensor, range=None)
        for tensor in signature.inputs
    )
    return replace(signature, inputs=inputs)


@contextmanager
def _folds_in_mind(options: Mapping[str, Any], signature: Signature) -> Iterator[None]:
    """Say what a model with its preprocessing folded in is fed, where a sample does not fit it."""
    try:
        yield
    except StageError as error:
        if not options["source"].get("fold"):
            raise
        wanted = ", ".join(
            f"'{tensor.name}' {tensor.dtype}[{', '.join(map(str, tensor.shape))}]"
            for tensor in signature.inputs
        )
        raise StageError(
            f"{error.message}; with `preprocess: fold` the model takes {wanted}",
            fix="give a folder of images, or a function or .npz that gives their pixels so",
        ) from error


def _given(
    inputs: Mapping[str, Path],
    options: Mapping[str, Any],
    signature: Signature,
    notes: dict[str, Any],
) -> Iterator[tuple[str, Any]]:
    """The user's samples, pairs where they are labelled, and for those of a folder their names."""
    spec, is_labelled = options["samples"], options["purpose"] == "task"
    path = inputs.get("samples", Path(spec))
    if path.is_dir():
        listing = Listing.of(path)
        if listing.others:
            notes["reason"] = f"{path.name}: files that are no images, left out: {listing.others}"
        steps = {
            name: Preprocessing.from_json(entry)
            for name, entry in options.get("preprocess", {}).items()
        }
        images = image_samples(listing, signature=signature, steps=steps)
        if is_labelled:
            return ((name, folder_pair(name, sample)) for name, sample in images)
        return images
    read = npz_pairs if is_labelled else npz_samples
    given = read(open_npz(path), signature=signature) if _is_npz(spec) else _yielded(spec)
    return (("", sample) for sample in given)


def _is_npz(spec: str) -> bool:
    return spec.endswith(".npz")


def _yielded(spec: str) -> Iterator[Any]:
    samples = call(load_function(spec), what=_WHAT)
    if isinstance(samples, Mapping | str) or not isinstance(samples, Iterable):
        raise StageError(
            f"{spec} gives a {type(samples).__name__}, not several samples",
            fix="yield one dict of arrays for each sample, or return a list of them; where they are"
            " labelled, of pairs (inputs, label)",
        )
    iterator = call(iter, samples, what=_WHAT)
    while (sample := call(next, iterator, _END, what=_WHAT)) is not _END:
        yield sample
