"""`release.json`: what a release holds. Pure.

A release is a directory: `release.json`, `release.dsse.json` where it is signed, and for each
target a directory with the files of its artifact, its `manifest.json` among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RELEASE = "release.json"
SIGNATURE = "release.dsse.json"
SCHEMA = 1

BUILD = "build"
"""The section on how it was made (seconds, commit, time): two builds that differ in nothing else
are the same release."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a release. path: relative to the release, with `/`; size: in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release as `release.json` tells it.

    content: the whole document. Its `artifacts` are, by target: format, files, verdict, precision,
        inputs, outputs, dims, options, tools.
    """

    content: Mapping[str, Any]

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.content["model"])

    @property
    def version(self) -> str:
        """Semantic version."""
        return str(self.content["version"])

    @property
    def digest(self) -> str:
        """The release's identity: sha256 of all but the section `build`."""
        own = {key: value for key, value in self.content.items() if key != BUILD}
        text = json.dumps(own, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def entries(self, target: str | None = None) -> Iterator[Entry]:
        """The files of a target's artifact, or of all."""
        for name, artifact in self.content["artifacts"].items():
            if target in (None, name):
                for file in artifact["files"]:
                    yield Entry(
                        path=f"{name}/{file['path']}", sha256=file["sha256"], size=file["size"]
                    )
