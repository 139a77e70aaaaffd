"""What the usage notes of all families have in common: their head, tables and code blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crosscast.targets.families import preprocessing


def note(
    manifest: Mapping[str, Any], *blocks: tuple[str, str, str], remarks: Sequence[str] = ()
) -> str:
    """USAGE.md: what the model takes and gives, then the (title, language, code) blocks.

    remarks: paragraphs on what it takes and gives.
    """
    parts = [
        f"# {manifest['model']} {manifest['version']}: {manifest['target']}",
        "Every tensor that is fed and read, by name:",
        "\n".join(_table(manifest)),
        "`vectors.safetensors` holds inputs (`0/in/<name>`) and what the source model gives for "
        "them (`0/out/<name>`).",
        *remarks,
        *_remarks(manifest),
    ]
    if section := preprocessing.words(manifest):
        parts.append(section)
    for title, language, code in blocks:
        parts.append(f"## {title}\n\n```{language}\n{code.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def _remarks(manifest: Mapping[str, Any]) -> list[str]:
    states = [
        f"`{tensor['name']}` is a state: feed it what `{tensor['fed_by']}` was in the call before."
        for tensor in manifest["inputs"]
        if tensor.get("fed_by")
    ]
    return states + _calibrated(manifest)


def _calibrated(manifest: Mapping[str, Any]) -> list[str]:
    calibration = manifest.get("calibration") or {}
    if calibration.get("origin") != "synthetic":
        return []
    return [
        "Its int8 ranges were measured on inputs drawn from the declared ranges, on no real ones."
    ]


def names(manifest: Mapping[str, Any], key: str) -> list[str]:
    """The names of the manifest's "inputs" or "outputs"."""
    return [tensor["name"] for tensor in manifest[key]]


def example_shape(tensor: Mapping[str, Any]) -> list[int]:
    """The tensor's shape with 1 for each dynamic dimension."""
    return [dim if isinstance(dim, int) else 1 for dim in tensor["shape"]]


def _table(manifest: Mapping[str, Any]) -> list[str]:
    rows = ["| | name | shape | dtype | layout |", "|---|---|---|---|---|"]
    for key in ("inputs", "outputs"):
        for tensor in manifest[key]:
            shape = " x ".join(str(dim) for dim in tensor["shape"]) or "scalar"
            rows.append(
                f"| {key[:-1]} | `{tensor['name']}` | {shape} | {tensor['dtype']} "
                f"| {tensor.get('layout') or '-'} |"
            )
    return rows
