"""Package: a proven model becomes the directory that its target ships."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosscast.pipeline.digest import file_sha256, of_path
from crosscast.pipeline.manifest import CALIBRATION, MANIFEST, VECTORS, write_json
from crosscast.pipeline.parity.io import delivered
from crosscast.pipeline.parity.tensors import open_tensors
from crosscast.pipeline.parity.vectors import read_signature, write_tensors
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor, permute, scored
from crosscast.pipeline.stages import StageResult, function
from crosscast.targets.base import KEPT, NOTES, SAID, read_notes

NOT_SHIPPED = (NOTES, "signature.json")
"""What travels with a model from tree to tree; the manifest says it all."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write model files, `vectors.safetensors`, `manifest.json` and `USAGE.md`.

    The vectors are the parity cases and the source's outputs, in the artifact's own layout and
    in the source's dtypes.
    """
    for entry in sorted(inputs["model"].iterdir()):
        if entry.name not in NOT_SHIPPED:
            _copy(entry, out / entry.name)
    model_files = _listing(out)
    layout: Layout | None = options["layout"]
    signature = read_signature(inputs["reference"])
    _write_vectors(inputs["reference"] / VECTORS, signature, layout, out / VECTORS)
    verdict = _json(inputs["verdict"] / "verdict.json")
    shipped = _shipped(
        signature.permuted(layout),
        verdict.pop("quantization"),
        io=options["io"],
        narrowed=options["narrowed"],
        pixels=options["pixels"],
    )
    labels = options["labels"]
    calibrated = "calibration" in inputs
    manifest = {
        "schema": 1,
        **{key: options[key] for key in ("model", "version", "target", "format")},
        "files": [*model_files, _entry(out / VECTORS, out)],
        **shipped.to_json(),
        "io": options["io"],
        "preprocessing": options["preprocessing"],
        "options": options["options"],
        "labels": _labels(signature, labels) if labels else None,
        "metadata": options["metadata"],
        "calibration": _json(inputs["calibration"] / CALIBRATION) if calibrated else None,
        "vectors": {
            "path": VECTORS,
            "cases": _json(inputs["reference"] / "cases.json"),
            "dtypes": _dtypes(signature),
        },
        "precision": _precision(inputs["model"], verdict.pop("precision", None)),
        "verdict": verdict,
        "allow_unverified": options["allow_unverified"],
        "source": {"kind": options["source"], "files": _source_digests(inputs)},
        "export": read_notes(inputs["export"]),
        "said": read_notes(inputs["model"]).get(SAID, ""),
        "tools": options["tools"],
    }
    write_json(out / MANIFEST, manifest)
    usage = function(options["usage"])(manifest=manifest)
    (out / "USAGE.md").write_text(usage, encoding="utf-8")
    return StageResult()


def _labels(signature: Signature, labels: list[str]) -> dict[str, Any]:
    """The classes, and the output that has their scores."""
    return {"output": scored(signature.outputs, labels).name, "names": labels}


def _precision(model: Path, held: dict[str, Any] | None) -> dict[str, Any] | None:
    """The audit, and what the quantizer kept in float where int8 would have cost too much."""
    kept = read_notes(model).get(KEPT)
    return held | {KEPT: kept} if held and kept else held


def _shipped(
    signature: Signature,
    quantization: Mapping[str, list[Any]],
    *,
    io: str | None,
    narrowed: Mapping[str, str],
    pixels: Sequence[str],
) -> Signature:
    """The signature with the dtypes that the artifact has."""

    def told(tensor: Tensor) -> Tensor:
        pair = quantization.get(tensor.name)
        return replace(tensor, quantization=None if pair is None else (pair[0], pair[1]))

    return replace(
        signature,
        inputs=tuple(
            map(told, delivered(signature.inputs, io=io, narrowed=narrowed, pixels=pixels))
        ),
        outputs=tuple(map(told, delivered(signature.outputs, io=io, narrowed=narrowed))),
    )


def _dtypes(signature: Signature) -> dict[str, dict[str, str]]:
    """The source's dtypes, which the vectors have whatever the artifact's are."""
    return {
        "inputs": {tensor.name: tensor.dtype for tensor in signature.inputs},
        "outputs": {tensor.name: tensor.dtype for tensor in signature.outputs},
    }


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _listing(root: Path) -> list[dict[str, Any]]:
    """Every file below `root`; the model's main file first, since a reader looks there."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    paths.sort(key=lambda path: not path.name.startswith("model."))
    return [_entry(path, root) for path in paths]


def _entry(path: Path, root: Path) -> dict[str, Any]:
    return {
        "path": path.relative_to(root).as_posix(),
        "sha256": file_sha256(path),
        "size": path.stat().st_size,
    }


def _source_digests(inputs: Mapping[str, Path]) -> dict[str, str]:
    return {
        name.removeprefix("source."): of_path(path)
        for name, path in sorted(inputs.items())
        if name.startswith("source.")
    }


def _write_vectors(source: Path, signature: Signature, layout: Layout | None, out: Path) -> None:
    def permuted(key: str) -> Arrays:
        _, direction, name = key.split("/", 2)
        tensors = signature.inputs if direction == "in" else signature.outputs
        return permute({name: stored[key]}, tensors=tensors, layout=layout)

    with open_tensors(source) as stored:
        pairs = ((key, array) for key in stored for array in permuted(key).values())
        write_tensors(out, pairs)
