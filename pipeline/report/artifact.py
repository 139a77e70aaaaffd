"""A manifest as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosscast.pipeline.parity.task import TaskResult
from crosscast.targets.families import preprocessing

NAMED = 3
"""Operators that are named of those that fell back."""


def describe(manifest: Mapping[str, Any]) -> str:
    """Files, inputs and outputs, precision and verdict of an artifact."""
    verdict = manifest["verdict"]
    reason = f" ({verdict['reason']})" if verdict["reason"] else ""
    lines = [
        f"{manifest['model']} {manifest['version']}, target {manifest['target']}",
        f"verdict: {verdict['status']}{reason}",
        *_task(verdict.get("task")),
        *_precision(manifest.get("precision")),
        *([f"note:    {manifest['said']}"] if manifest.get("said") else []),
        *(f"input:   {_tensor(tensor)}" for tensor in manifest["inputs"]),
        *(f"output:  {_tensor(tensor)}" for tensor in manifest["outputs"]),
        *_labels(manifest.get("labels")),
        *_samples(manifest),
        *(
            f"file:    {entry['path']}  {entry['size']} bytes  sha256:{entry['sha256']}"
            for entry in manifest["files"]
        ),
        "tools:   " + ", ".join(f"{name} {v}" for name, v in manifest["tools"].items()),
    ]
    return "\n".join(lines)


def _task(task: Mapping[str, Any] | None) -> list[str]:
    if not task:
        return []
    result = TaskResult.from_json(task)
    return [
        f"task:    {result.status}: {result.line}; {result.method}, samples sha256:{result.sha256}"
    ]


def _labels(labels: Mapping[str, Any] | None) -> list[str]:
    if not labels:
        return []
    first, *more = labels["names"]
    some = f"{first} to {more[-1]}" if more else first
    return [f"classes: {len(labels['names'])} by '{labels['output']}', {some}"]


def _samples(manifest: Mapping[str, Any]) -> list[str]:
    """How images become inputs, and what ranges were measured on."""
    found = manifest.get("calibration")
    return [
        *(
            f"preprocessing of {name}: {preprocessing.line(entry)}"
            for name, entry in (manifest.get("preprocessing") or {}).items()
        ),
        *(
            [f"calibration: {found['cases']} {found['origin']} samples, sha256:{found['sha256']}"]
            if found
            else []
        ),
    ]


def _precision(precision: Mapping[str, Any] | None) -> list[str]:
    """Weights by bytes, operators by what they compute in, and those that fell back."""
    if not precision:
        return []
    shares = ", ".join(f"{size} bytes {dtype}" for dtype, size in precision["weights"].items())
    ops = ", ".join(f"{count} {form}" for form, count in precision.get("ops", {}).items())
    wide = precision.get("fell_back", [])
    named = ", ".join(f"{entry['name']} ({100 * entry['share']:.1f} %)" for entry in wide[:NAMED])
    more = f" and {len(wide) - NAMED} more" if len(wide) > NAMED else ""
    return [
        f"weights: {precision['delivered']} ({shares})",
        *([f"compute: {ops}"] if ops else []),
        *([f"wider:   {named}{more}, than {precision['asked']}"] if wide else []),
    ]


def _tensor(tensor: Mapping[str, Any]) -> str:
    shape = ", ".join(str(size) for size in tensor["shape"])
    layout = f" {tensor['layout']}" if tensor["layout"] else ""
    return f"{tensor['name']}: {tensor['dtype']}[{shape}]{layout}"
