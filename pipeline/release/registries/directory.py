"""A directory as a registry. Any static web server or bucket can show the same layout:

    <model>/index.json
    <model>/<version>/release.json, release.dsse.json, <target>/<file>

A release is staged beside its place and renamed into it. Names that begin with `.` are not the
registry's: a lock, and what is being staged.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crosscast.pipeline import staging
from crosscast.pipeline.config.names import SEMVER, SLUG
from crosscast.pipeline.errors import RegistryError
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Entry, Release
from crosscast.pipeline.release.registries.base import (
    INDEX,
    LARGEST,
    Conflict,
    Index,
    check_same,
)

LOCK = ".lock"
STAGED = ".staged."
CHUNK = 1 << 20


class Directory:
    """The registry under `root`, which is made when something is published."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def index(self, *, model: str) -> Index:
        """See Registry."""
        content = self._read(self._model(model) / INDEX) or b""
        return Index(content=content, token=hashlib.sha256(content).hexdigest())

    def write_index(self, *, model: str, content: bytes, token: str) -> None:
        """See Registry."""
        folder = self._model(model)
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with staging.locked(folder / LOCK):
                if self.index(model=model).token != token:
                    raise Conflict
                self._replace(folder / INDEX, content)

    def document(self, *, model: str, version: str, name: str) -> bytes | None:
        """See Registry."""
        return self._read(self._version(model, version) / name)

    @contextmanager
    def open(
        self, *, model: str, version: str, entry: Entry, start: int = 0
    ) -> Iterator[Iterator[bytes]]:
        """See Registry."""
        folder = self._version(model, version)
        with _explained(folder / entry.path):
            descriptor = _opened(folder, entry.path)
            with os.fdopen(descriptor, "rb") as file:
                file.seek(start)
                yield iter(lambda: file.read(CHUNK), b"")

    def publish(self, *, folder: Path, release: Release) -> None:
        """See Registry."""
        parent, place = self._model(release.model), self._version(release.model, release.version)
        with _explained(place):
            parent.mkdir(parents=True, exist_ok=True)
            if self._is_there(release):
                return
            staging.sweep(parent, STAGED)
            with staging.held(parent, STAGED) as staged:
                _copy(folder, staged, release)
                with staging.locked(parent / LOCK):
                    if not self._is_there(release):
                        staging.put_in_place(staged, place)

    def _is_there(self, release: Release) -> bool:
        """Whether this very release is published; GateError where another is, of that version."""
        found = self.document(model=release.model, version=release.version, name=RELEASE)
        if found is None:
            return False
        check_same(release, found, where=str(self.root))
        return True

    def _replace(self, path: Path, content: bytes) -> None:
        """Write a file so that readers see the old content or the new one. The lock is held, so
        that what a killed writer has left is in nobody's use.
        """
        staged = path.with_name(f".{path.name}.tmp")
        staged.write_bytes(content)
        staged.replace(path)

    def _read(self, path: Path) -> bytes | None:
        with _explained(path):
            try:
                descriptor = _opened(self.root, path.relative_to(self.root).as_posix())
            except FileNotFoundError:
                return None
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise RegistryError(f"{path}: over {LARGEST >> 20} MiB, which no document here has")
        return content

    def _model(self, model: str) -> Path:
        if not re.fullmatch(SLUG, model):
            raise RegistryError(
                f"'{model}' is no name of a model",
                fix="it has lower-case letters, digits, '.', '_' and '-'",
            )
        return self.root / model

    def _version(self, model: str, version: str) -> Path:
        if not re.fullmatch(SEMVER, version):
            raise RegistryError(
                f"'{version}' is no version", fix="give a semantic version such as 1.2.0"
            )
        return self._model(model) / version


def _opened(root: Path, path: str) -> int:
    """A descriptor of the file at `path` below `root`, without following a link on the way.

    `root` itself may be one. Raises OSError; ELOOP, NotADirectoryError for a link.
    """
    *folders, name = path.split("/")
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
    finally:
        os.close(here)


def _copy(folder: Path, staged: Path, release: Release) -> None:
    """Copy the release's files, each verified on the way, and its documents."""
    for entry in release.entries():
        target = staged / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256, size = hashlib.sha256(), 0
        with os.fdopen(_opened(folder, entry.path), "rb") as reader, target.open("xb") as writer:
            while chunk := reader.read(CHUNK):
                sha256.update(chunk)
                size += len(chunk)
                writer.write(chunk)
        if (sha256.hexdigest(), size) != (entry.sha256, entry.size):
            raise RegistryError(
                f"{folder / entry.path}: not the file that {RELEASE} names", fix="release again"
            )
    for name in (SIGNATURE, RELEASE):
        if (folder / name).exists():
            shutil.copyfile(folder / name, staged / name, follow_symlinks=False)


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Turn a failure of the disk into text."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise RegistryError(
                f"{place}: leads through a link or a file, which a registry never has",
                fix="put the file or directory itself there",
            ) from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RegistryError(
                f"no space left on the disk of {place}", fix="free some and publish again"
            ) from None
        raise RegistryError(
            f"{place}: {error.strerror or error}", fix="check the path and who may read and write"
        ) from None
