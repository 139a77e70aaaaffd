"""Releases made up for tests of who reads them: each target has files of its own, and a manifest
that lists them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from releases import artifact, content

from crosscast.pipeline import manifest
from crosscast.pipeline.release import channels, signing
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Release
from crosscast.pipeline.release.registries.base import Registry


def made(
    folder: Path,
    *,
    model: str = "m",
    version: str = "1.0.0",
    data: bytes = b"weights",
    targets: Iterable[str] = ("onnx",),
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    key: Path | None = None,
    **parts: Any,
) -> Release:
    """A release's directory. changes: what its document says otherwise, by target. parts: what
    else is in its document.
    """
    artifacts = {}
    for target in targets:
        files = {"model.bin": target.encode() + data, "sub/part.bin": data * 3, "USAGE.md": b"#\n"}
        listed = artifact(files=files)["files"][:2]
        told = {"schema": 1, **dict.fromkeys(manifest.KEYS), "files": listed}
        told |= {"model": model, "version": version, "target": target}
        files["manifest.json"] = json.dumps(told).encode()
        for path, held in files.items():
            (folder / target / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / target / path).write_bytes(held)
        artifacts[target] = artifact(files=files, **(changes or {}).get(target, {}))
    release = Release(content={**content(artifacts, model=model, version=version), **parts})
    text = json.dumps(release.content).encode()
    (folder / RELEASE).write_bytes(text)
    if key is not None:
        (folder / SIGNATURE).write_bytes(signing.sign(text, signing.read_private(str(key))))
    return release


def publish(registry: Registry, folder: Path, release: Release) -> None:
    """Publish it, as what `stable` names."""
    registry.publish(folder=folder, release=release)
    channels.update(
        registry,
        release.model,
        lambda shelf: shelf.add(release.version, release.digest).promote("stable", release.version),
    )


def files(folder: Path) -> dict[str, bytes]:
    """All files below a directory."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
