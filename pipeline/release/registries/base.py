"""What a registry is: the protocol, and what its parts give and raise.

A registry holds releases, each under a model and a version, and one index for each model: its
versions and channels. Nothing of a release is seen by readers before all of it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crosscast.pipeline.errors import GateError, RegistryError
from crosscast.pipeline.release.document import RELEASE, Entry, Release, parse

LARGEST = 16 << 20
"""Bytes of an index or `release.json`; more is not one."""

INDEX = "index.json"

DAMAGED = (
    "it was damaged or tampered with: remove it there and publish it again, or use another registry"
)
"""What to do about a release that is not what it should be. Published over itself it would be left
as it is.
"""


@dataclass(frozen=True, kw_only=True)
class Index:
    """A model's index as it is stored.

    content: the bytes of `index.json`; empty where the model has none yet.
    token: what `write_index` needs, to know that nobody else has written meanwhile.
    """

    content: bytes = b""
    token: str = ""


class Conflict(Exception):
    """Somebody else has written the index meanwhile: read it again, and try again."""


class Registry(Protocol):
    """Where releases live. Every method raises RegistryError, with what happened and what to do,
    where the registry refuses, cannot be reached, or gives what is not what it should be.
    """

    def index(self, *, model: str) -> Index:
        """The model's index."""
        ...

    def write_index(self, *, model: str, content: bytes, token: str) -> None:
        """Replace the model's index, if it is still that of `token`; raises Conflict if not."""
        ...

    def document(self, *, model: str, version: str, name: str) -> bytes | None:
        """`release.json` or `release.dsse.json`, of a few megabytes at most; None where the
        registry has no such version, or the release is not signed.
        """
        ...

    def open(
        self, *, model: str, version: str, entry: Entry, start: int = 0
    ) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of a file of a release from `start` on, in pieces. What comes is not checked
        against the digest: who pulls does. Raises web.Transient where it breaks off and may go
        well at the next try.
        """
        ...

    def publish(self, *, folder: Path, release: Release) -> None:
        """Upload a release's directory, `release.json` last; what is there already (by digest) is
        left. Does not touch the index. Raises GateError where the version is there with another
        digest.
        """
        ...


def check_same(release: Release, found: bytes, *, where: str) -> None:
    """Raise GateError where the release that is there is another of the same version."""
    there = parse(found, where=where).digest
    if there != release.digest:
        raise GateError(
            f"{release.model} {release.version} is published in {where}, with other content: "
            f"digest {there[:12]}, not {release.digest[:12]}",
            fix="a version never changes: release under another one (--bump patch)",
        )


def released(registry: Registry, *, model: str, version: str, where: str) -> tuple[bytes, Release]:
    """The release.json of a version that the index has, and what it tells. Raises RegistryError."""
    name = f"{where}/{model}@{version}"
    document = registry.document(model=model, version=version, name=RELEASE)
    if document is None:
        raise RegistryError(f"{name}: is in the index, but not there", fix="publish it again")
    release = parse(document, where=name)
    told = f"{release.model} {release.version}"
    if told != f"{model} {version}":
        raise RegistryError(
            f"{name}: its {RELEASE} is of {told}: what is there is {told} under another name",
            fix=DAMAGED,
        )
    return document, release
