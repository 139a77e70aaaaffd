"""Digests of files, trees and JSON values, and the stat stamps that save hashing them again."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from crosscast.pipeline.errors import ConfigError

MISSING = "missing"
"""Stands for the digest of a file that is not there."""

# A file changed within one tick of its filesystem's clock after it was hashed keeps its stamp.
# Two seconds is the coarsest tick in use (FAT); most are a few milliseconds.
_TICK_NS = 2_000_000_000

Stamp = tuple[int, int, int, int]
"""Size, mtime_ns, ctime_ns, inode. Nobody can set a ctime, so an equal stamp is equal content."""


class Entry(NamedTuple):
    """One file of a tree."""

    sha256: str
    size: int
    stamp: Stamp

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back."""
        return self._asdict()

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The inverse of `to_json`; KeyError, ArithmeticError, TypeError, ValueError of others."""
        size, mtime, ctime, inode = map(int, value["stamp"])
        return cls(str(value["sha256"]), int(value["size"]), (size, mtime, ctime, inode))


Entries = dict[str, Entry]
"""The files of a tree by their path in it, with `/`. A lone file's path is empty."""


class NotPlainError(Exception):
    """A tree holds something that is neither a file nor a directory; names it."""


def canonical(value: Any) -> str:
    """The JSON of `value` that does not depend on the order of keys or on spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def of_json(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_path(path: Path) -> str:
    """sha256 of a file; of a directory, the digest of the tree it holds."""
    return of_entries(measure(path, follow=True)) if path.is_dir() else file_sha256(path)


def of_entries(entries: Mapping[str, Entry]) -> str:
    """The digest of a tree: of the path, content and size of each file, and nothing else."""
    return of_json([[path, entry.sha256, entry.size] for path, entry in sorted(entries.items())])


def measure(
    root: Path, known: Mapping[str, Entry] | None = None, *, follow: bool = False
) -> Entries:
    """Every file under `root`, hashed unless `known` has it with the same stamp.

    follow: whether links are taken for what they lead to; otherwise they are not plain.
    Raises OSError, and NotPlainError on what is neither a file nor a directory.
    """
    known = known or {}
    return {name: _entry(path, known.get(name)) for name, path in _files(root, follow=follow)}


def entry(path: Path, sha256: str) -> Entry:
    """The entry of a file that is known to have that content."""
    stamp = _stamp(path.stat())
    return Entry(sha256, stamp[0], stamp)


class FileDigests:
    """Digests of the user's own files and directories.

    A file is hashed once: until its stamp changes, the digest comes from what `load` gives back
    of what `save` was given (two functions of the path, for the JSON of its entries).
    """

    def __init__(self, *, load: Callable[[str], Any], save: Callable[[str, Any], None]) -> None:
        self._load = load
        self._save = save

    def of(self, path: Path) -> str:
        """sha256 of a file; of a directory, the digest of the tree it holds; MISSING of nothing.

        Raises ConfigError where it cannot be read.
        """
        path = path.absolute()
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        try:
            return self._of(path)
        except (OSError, NotPlainError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error

    def _of(self, path: Path) -> str:
        started = time.time_ns()
        known = entries_from_json(self._load(str(path)))
        entries = measure(path, known, follow=True)
        settled = {
            name: entry
            for name, entry in entries.items()
            if entry == known.get(name) or _settled(entry, started)
        }
        if settled != known:
            self._save(str(path), entries_to_json(settled))
        return entries[""].sha256 if "" in entries else of_entries(entries)


def entries_to_json(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """A JSON-able form that `entries_from_json` reads back."""
    return {name: entry.to_json() for name, entry in entries.items()}


def entries_from_json(value: Any) -> Entries:
    """The inverse of `entries_to_json`; empty for anything else, so that all is hashed again."""
    try:
        return {str(name): Entry.from_json(entry) for name, entry in value.items()}
    except (AttributeError, KeyError, ArithmeticError, TypeError, ValueError):
        return {}


def _settled(entry: Entry, now: int) -> bool:
    _, mtime, ctime, _ = entry.stamp
    return abs(now - mtime) > _TICK_NS and abs(now - ctime) > _TICK_NS


def _entry(path: Path, known: Entry | None) -> Entry:
    if known is not None and _stamp(path.stat()) == known.stamp:
        return known
    with path.open("rb") as file:
        # Taken before reading: a change meanwhile gives the file another stamp than this one.
        stamp = _stamp(os.fstat(file.fileno()))
        return Entry(hashlib.file_digest(file, "sha256").hexdigest(), stamp[0], stamp)


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _files(
    path: Path, *, follow: bool, name: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, Path]]:
    """The files under `path`. `above`: the directories on the way, to break a circle of links."""
    status = path.stat(follow_symlinks=follow)
    here = (status.st_dev, status.st_ino)
    if stat.S_ISREG(status.st_mode):
        yield name, path
    elif not stat.S_ISDIR(status.st_mode):
        raise NotPlainError(f"{name or path} is neither a file nor a directory")
    elif here not in above:
        for child in sorted(path.iterdir()):
            inner = f"{name}/{child.name}" if name else child.name
            yield from _files(child, follow=follow, name=inner, above=above | {here})
