"""From the artifacts of a build to their `release.json`."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.config.devices import written
from crosscast.pipeline.config.document import Document
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.digest import Entries, measure, of_json
from crosscast.pipeline.errors import ParityError
from crosscast.pipeline.fingerprint import installed_version
from crosscast.pipeline.release.devices import to_ship
from crosscast.pipeline.release.document import BUILD, DEVICES, RELEASE, SCHEMA, Release

NOT_CONTENT = ("version", "release")
"""Keys of a config that do not tell what is built."""

TOLD = (
    *("format", "inputs", "outputs", "dims", "io", "labels", "preprocessing", "options"),
    *("precision", "calibration", "allow_unverified", "tools"),
)
"""Keys of a manifest that release.json has too."""

SECONDS = 10
"""That git is waited for."""


def compose(
    folder: Path, config: Config, *, config_sha256: str, build: Mapping[str, Any]
) -> Release:
    """Write release.json over the artifacts of the config's targets, which lie in `folder`.

    Raises ParityError where one of them is not proven, and nothing allows for it.
    """
    read = {name: manifests.read(folder / name) for name in config.targets}
    for name, manifest in read.items():
        _require_proven(name, manifest)
    sources = {
        file: digest
        for manifest in read.values()
        for file, digest in manifest["source"]["files"].items()
    }
    content = {
        "schema": SCHEMA,
        "model": config.model,
        "version": config.version,
        "metadata": config.metadata.model_dump(),
        "config": {"sha256": config_sha256},
        "source": {"kind": next(iter(read.values()))["source"]["kind"], "files": sources},
        "artifacts": {
            name: _artifact(manifest, measure(folder / name)) for name, manifest in read.items()
        },
        **({DEVICES: to_ship(written(own))} if (own := config.release.devices) else {}),
        BUILD: dict(build),
    }
    manifests.write_json(folder / RELEASE, content)
    return Release(content=content)


def config_digest(path: Path) -> str:
    """sha256 of what a config says of the model: not of its comments, version, release policy,
    nor of the values of its variables, which may be secrets and are another machine's.
    """
    document = Document(name=str(path), environ=os.environ)
    document.read(path.read_text(encoding="utf-8-sig"))
    told = document.written()
    return of_json({key: told[key] for key in told if key not in NOT_CONTENT})


def environment(folder: Path) -> dict[str, Any]:
    """Where a release is built: versions, and the commit of the repository around `folder`."""
    return {
        "commit": _commit(folder),
        "crosscast": installed_version("crosscast") or "unknown",
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _require_proven(target: str, manifest: Mapping[str, Any]) -> None:
    verdict = manifest["verdict"]
    allowed = verdict["status"] == "unverified" and manifest["allow_unverified"]
    if verdict["status"] != "passed" and not allowed:
        raise ParityError(f"{target}: {verdict['status']}: {verdict['reason']}")


def _artifact(manifest: Mapping[str, Any], files: Entries) -> dict[str, Any]:
    verdict = {key: value for key, value in manifest["verdict"].items() if key != "cases"}
    return {
        **{key: manifest[key] for key in TOLD},
        "verdict": verdict,
        "files": [
            {"path": path, "sha256": entry.sha256, "size": entry.size}
            for path, entry in sorted(files.items())
        ],
    }


def _commit(folder: Path) -> dict[str, Any] | None:
    """The commit that is checked out, and whether its files are changed; None outside of git."""
    sha1 = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if sha1 is None or changes is None else {"sha1": sha1, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
