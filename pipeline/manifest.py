"""The manifest of an artifact: how it is written, read and checked against the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import ConfigError, ParityError

MANIFEST = "manifest.json"
RELEASE = "release.json"
"""Lies above the artifacts of a release, whose bytes then never change."""

VECTORS = "vectors.safetensors"
CALIBRATION = "calibration.json"
LABELLED = "labelled.json"
KEYS = (
    *("model", "version", "target", "files", "inputs", "outputs", "dims", "vectors"),
    *("verdict", "tools"),
)
"""What every manifest has."""


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that equal values give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read(artifact: Path) -> dict[str, Any]:
    """The manifest of an artifact directory.

    Raises ConfigError where there is none or it cannot be read.
    """
    path = artifact / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{artifact}: not an artifact: it has no {MANIFEST}",
            fix="name a directory such as artifacts/<model>/<version>/<target>",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}", fix="build the artifact again"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("schema") != 1:
        raise ConfigError(
            f"{path}: not a manifest of schema 1", fix="use the crosscast that wrote it"
        )
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        raise ConfigError(
            f"{path}: incomplete: it has no {', '.join(missing)}", fix="build the artifact again"
        )
    return manifest


def check_files(artifact: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ParityError for the first file that is not the one that was proven.

    Paths that leave the artifact's directory are refused as ConfigError.
    """
    for entry in manifest["files"]:
        path = artifact / confined(entry["path"])
        if not path.is_file() or path.is_symlink():
            raise ParityError(f"{path}: missing", fix="build the artifact again")
        if path.stat().st_size != entry["size"] or file_sha256(path) != entry["sha256"]:
            raise ParityError(
                f"{path}: not the file that was proven: its digest differs from the manifest's",
                fix="build the artifact again",
            )


def confined(path: str) -> PurePosixPath:
    """The path, if it is relative and stays inside; ConfigError otherwise."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path:
        raise ConfigError(f"manifest: path '{path}' leaves the artifact's directory")
    return pure
