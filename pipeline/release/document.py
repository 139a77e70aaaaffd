"""`release.json`: what a release holds. Pure.

A release is a directory: `release.json`, `release.dsse.json` where it is signed, and for each
target a directory with the files of its artifact, its `manifest.json` among them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.manifest import RELEASE as RELEASE
from crosscast.pipeline.manifest import confined

SIGNATURE = "release.dsse.json"
SCHEMA = 1
KEYS = ("format", "files", "verdict", "inputs", "outputs", "dims", "options", "tools")
"""What is told of every artifact, and is never null."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

DEVICES = "devices"
"""The section on devices of the publisher's own, by name; not there where there are none."""

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


def parse(data: bytes, *, where: str) -> Release:
    """The release that the bytes of a `release.json` tell of.

    Raises RegistryError, which names it by `where`, for what is none: another schema, an entry
    that is incomplete, a path that leaves the release or stands twice.
    """
    try:
        content = json.loads(data)
        schema = content["schema"]
        release = Release(content=content)
        paths = [_checked(entry).path.casefold() for entry in release.entries()]
        known = [
            content["model"],
            content["version"],
            content["config"],
            content["source"]["files"],
        ]
        for artifact in content["artifacts"].values():
            tensors = [*artifact["inputs"], *artifact["outputs"]]
            known += [artifact["verdict"]["status"], *(artifact[key] for key in KEYS)]
            known += [tensor[key] for tensor in tensors for key in ("name", "shape", "dtype")]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, ConfigError) as error:
        raise RegistryError(
            f"{where}: no {RELEASE} that can be used: {' '.join(str(error).split())[:200]}",
            fix="it is damaged or not ours; publish it again, or use another registry",
        ) from None
    if schema != SCHEMA or None in known:
        raise RegistryError(
            f"{where}: not a {RELEASE} of schema {SCHEMA}", fix="use the crosscast that wrote it"
        )
    twice = {path for path in paths if paths.count(path) > 1}
    if twice:
        raise RegistryError(f"{where}: '{min(twice)}' stands twice in {RELEASE}")
    return release


def _checked(entry: Entry) -> Entry:
    """The entry, if its path stays inside and is plain; ConfigError, ValueError, TypeError."""
    parts = confined(entry.path).parts
    if "/".join(parts) != entry.path or len(parts) < 2 or "\0" in entry.path:
        raise ValueError(f"the path '{entry.path}' is not plain")
    if not _SHA256.fullmatch(entry.sha256):
        raise ValueError(f"'{entry.path}' has no sha256")
    if type(entry.size) is not int or entry.size < 0:
        raise ValueError(f"'{entry.path}' has no size")
    return entry
