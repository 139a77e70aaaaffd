"""A file of a release, brought from a registry to a path: resumed, and verified as it arrives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from crosscast.pipeline import web
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import RegistryError
from crosscast.pipeline.release.document import RELEASE, Entry, Release
from crosscast.pipeline.release.registries.base import Registry

CHUNK = 1 << 20
DAMAGED = "it was damaged or tampered with: publish it again, or use another registry"
Tell = Callable[[str], None]


def bring_target(
    registry: Registry,
    release: Release,
    target: str,
    *,
    folder: Path,
    tell: Tell = lambda text: None,  # noqa: ARG005
) -> int:
    """Have a target's artifact in `folder`, each file verified; gives how many bytes were brought.
    Raises as `bring` does.
    """
    return sum(
        bring(
            registry,
            model=release.model,
            version=release.version,
            entry=entry,
            path=folder / entry.path.removeprefix(f"{target}/"),
            tell=tell,
        )
        for entry in release.entries(target)
    )


def check_target(release: Release, target: str, *, folder: Path) -> None:
    """Raise RegistryError for the first file of a target's artifact in `folder` that is not there
    or not the one that was released.
    """
    for entry in release.entries(target):
        path = folder / entry.path.removeprefix(f"{target}/")
        there = path.is_file() and not path.is_symlink()
        if not there or path.stat().st_size != entry.size or file_sha256(path) != entry.sha256:
            raise RegistryError(
                f"{path}: {'not the file that was released' if there else 'missing'}", fix=DAMAGED
            )


def bring(
    registry: Registry,
    *,
    model: str,
    version: str,
    entry: Entry,
    path: Path,
    tell: Tell = lambda text: None,  # noqa: ARG005
    sleep: web.Sleep = time.sleep,
) -> int:
    """Have the entry's bytes at `path`, from what is there on; gives how many were brought.

    Raises RegistryError where they cannot be had, or are not those of the entry; what has arrived
    of the right ones is kept. Raises OSError of the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(path, entry)
    resumed = part.have

    def attempt() -> None:
        before = part.have
        with registry.open(model=model, version=version, entry=entry, start=before) as chunks:
            part.take(chunks)
        if before < part.have < entry.size:
            raise web.Transient("the connection broke off")

    if part.have < entry.size:
        try:
            web.retried(attempt, tell=lambda why: tell(f"{entry.path} goes on: {why}"), sleep=sleep)
        except web.Transient as error:
            raise RegistryError(
                f"{entry.path}: {error} ({web.TRIES} tries)",
                fix="check the network and pull again; what has arrived is kept",
            ) from error
    if part.is_right():
        return part.have - resumed
    path.unlink()
    if resumed:  # what was there may have been of another file
        again = bring(
            registry, model=model, version=version, entry=entry, path=path, tell=tell, sleep=sleep
        )
        return part.have - resumed + again
    raise RegistryError(
        f"{entry.path} of {model} {version} is not the file that was released: it has "
        f"{part.have} bytes and the sha256 {part.sha256[:12]}, not {entry.size} and "
        f"{entry.sha256[:12]}",
        fix=DAMAGED,
    )


class _Part:
    """What has arrived of a file."""

    def __init__(self, path: Path, entry: Entry) -> None:
        self._path, self._entry = path, entry
        self._hash = hashlib.sha256()
        self.have = 0
        if path.exists() and path.stat().st_size <= entry.size:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    self._count(chunk)
        else:
            path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """Of what has arrived."""
        return self._hash.hexdigest()

    def take(self, chunks: Iterator[bytes]) -> None:
        """Append what arrives; RegistryError, and nothing is kept, where it is more than was
        declared.
        """
        with self._path.open("ab") as file:
            for chunk in chunks:
                if self.have + len(chunk) > self._entry.size:
                    self._path.unlink()
                    raise RegistryError(
                        f"{self._entry.path}: the registry sends more than the "
                        f"{self._entry.size} bytes that {RELEASE} declares",
                        fix=DAMAGED,
                    )
                file.write(chunk)
                self._count(chunk)

    def is_right(self) -> bool:
        """Whether it is the file that was declared."""
        return self.have == self._entry.size and self.sha256 == self._entry.sha256

    def _count(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.have += len(chunk)
