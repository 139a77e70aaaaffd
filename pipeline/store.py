"""What builds leave behind: trees by content, a record for every fingerprint, and small facts.

Everything here may be deleted at any time, and costs no more than building it again. It is safe
under several builds at once, and under a kill at any moment: what is written is staged under `tmp/`
and renamed into place, what is read is checked.

    trees/<digest>/        the files of a tree, in place and read-only
    trees/<digest>.json    its entries, with the stamps they had when they were last hashed
    records/ dependencies/ last/ stamps/ deliveries/ peaks/    one JSON file a fact
    logs/<config>/         what the last run of each step has printed
    repro/<model>-<config>/<step>/    what repeats a step that failed (see `repro`)
    tmp/                   workspaces of live builds, and of killed ones until the next build
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crosscast.pipeline import digest as digests
from crosscast.pipeline import staging
from crosscast.pipeline.digest import Entries, FileDigests, NotPlainError
from crosscast.pipeline.errors import ConfigError, StageError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_KINDS = (
    *("trees", "records", "dependencies", "last", "stamps", "deliveries", "origins", "peaks"),
    "tmp",
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What came of a step.

    tree: digest of what it wrote.
    peak: greatest memory of its processes together, in bytes.
    notes: what the stage said of its work.
    """

    tree: str
    seconds: float = 0.0
    peak: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any) -> Record | None:
        """The record that `value` is; None where it is not one."""
        try:
            return cls(
                tree=_checked(value["tree"]),
                seconds=float(value["seconds"]),
                peak=int(value["peak"]),
                notes=dict(value["notes"]),
            )
        except (KeyError, OverflowError, TypeError, ValueError):
            return None


def default_root() -> Path:
    """$CROSSCAST_CACHE, or `crosscast` in the user's cache directory."""
    if chosen := os.environ.get("CROSSCAST_CACHE"):
        return Path(chosen).expanduser().absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if cache.is_absolute():
        return cache / "crosscast"
    try:
        return Path.home() / ".cache" / "crosscast"
    except RuntimeError as error:
        raise ConfigError(
            "there is no home directory to keep the cache in",
            fix="set CROSSCAST_CACHE to a directory",
        ) from error


@dataclass(frozen=True)
class Workspace:
    """A directory for the steps of one build to write in."""

    root: Path

    def path(self, step: str) -> Path:
        """Where the step of that id writes."""
        return self.root / _file_name(step)

    def directory(self, step: str) -> Path:
        """`path`, as an empty directory; what an earlier run left there is removed."""
        path = self.path(step)
        with _explained(self.root):
            staging.remove(path)
            path.mkdir()
        return path


class Store:
    """A store on disk; made where there is none.

    Raises ConfigError where `root` cannot be used, and StageError when its disk is full.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._tmp = self.root / "tmp"
        self._lock = self.root / "lock"
        with _explained(self.root):
            for kind in _KINDS:
                (self.root / kind).mkdir(parents=True, exist_ok=True)
        self._files = FileDigests(
            load=lambda path: self._load("stamps", _key(path)),
            save=lambda path, entries: self._save("stamps", _key(path), entries),
        )

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """A place to stage work in, on the store's filesystem; removed at the end.

        Workspaces of builds that were killed are removed as well.
        """
        with _explained(self.root):
            staging.sweep(self._tmp)
        with staging.held(self._tmp) as directory:
            yield Workspace(directory)

    def file_digest(self, path: Path) -> str:
        """The digest of a file or directory of the user's, "missing" where there is none.

        It is remembered until the file changes. Raises ConfigError where it cannot be read.
        """
        return self._files.of(path)

    def log(self, scope: str, step: str) -> Path:
        """Where the log of that step of the config `scope` goes; its directory is made."""
        path = self.root / "logs" / _key(scope) / f"{_file_name(step)}.log"
        with _explained(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def repro(self, model: str, scope: str, step: str) -> Path:
        """Where what repeats that step of the config `scope` goes, if it fails."""
        return self.root / "repro" / f"{_file_name(model)}-{_key(scope)[:8]}" / _file_name(step)

    def tree_path(self, digest: str) -> Path:
        """Where the tree of that digest is, if the store has it. Not to be written to."""
        return self.root / "trees" / digest

    def put(self, directory: Path) -> str:
        """Take the files of `directory`, which lies in a workspace, and give their digest.

        The directory itself may be moved away. Raises StageError where it holds links or special
        files, or is not there.
        """
        with _explained(self.root):
            try:
                staging.freeze(directory)
                entries = digests.measure(directory)
            except (FileNotFoundError, NotADirectoryError, NotPlainError) as error:
                raise StageError(f"cannot keep what the step wrote: {error}") from error
            digest = digests.of_entries(entries)
            with staging.locked(self._lock):
                if not self._kept(digest):
                    directory.rename(self.tree_path(digest))
                    self._save_entries("trees", digest, entries)
        return digest

    def intact(self, digest: str) -> bool:
        """Whether the tree is here and whole. One that is damaged is removed.

        Files whose stamps have not changed since they were hashed are not hashed again.
        """
        if self._whole(digest) is not None:
            return True
        with _explained(self.root), staging.locked(self._lock):
            return self._kept(digest)

    def record(self, fingerprint: str) -> Record | None:
        """What is recorded under that fingerprint; not to be used unless its tree is `intact`."""
        return Record.from_json(self._load("records", fingerprint))

    def save_record(self, fingerprint: str, record: Record) -> None:
        """Remember what came of a step; its tree must have been put before."""
        self._save("records", fingerprint, asdict(record))

    def dependencies(self, base: str) -> tuple[str, ...]:
        """The files that the last run of that base fingerprint was found to read."""
        value = self._load("dependencies", base)
        return tuple(map(str, value)) if isinstance(value, list) else ()

    def save_dependencies(self, base: str, paths: Sequence[str]) -> None:
        """Remember the files that a run of that base fingerprint was found to read."""
        self._save("dependencies", base, sorted(paths))

    def last(self, key: str) -> dict[str, str] | None:
        """The ingredients of the last run of the step that `key` names."""
        value = self._load("last", _key(key))
        if not isinstance(value, dict):
            return None
        return {name: str(ingredient) for name, ingredient in value.items()}

    def save_last(self, key: str, ingredients: Mapping[str, str]) -> None:
        """Remember the ingredients of a run, to say later what has changed since."""
        self._save("last", _key(key), dict(ingredients))

    def peak(self, key: str) -> int | None:
        """The peak memory, in bytes, that was last learnt for `key`."""
        value = self._load("peaks", _key(key))
        return value if isinstance(value, int) else None

    def learn_peak(self, key: str, size: int) -> None:
        """Remember a peak of memory, in bytes."""
        self._save("peaks", _key(key), size)

    def deliver(self, digest: str, destination: Path) -> None:
        """Make `destination` a copy of the tree, each file verified on the way.

        A reader sees the old directory or the new one, never a mix; what else the old one held
        is gone. Raises ConfigError where `destination` cannot be written, and StageError when its
        disk is full or the tree is not here or damaged.
        """
        entries = self._whole(digest)
        with _explained(destination, elsewhere="build into a directory on another disk"):
            destination = destination.resolve()
            if destination.exists() and not destination.is_dir():
                raise ConfigError(f"cannot write {destination}: a file of that name is in the way")
            destination.parent.mkdir(parents=True, exist_ok=True)
            staging.sweep(destination.parent, f".{destination.name}.", ".tmp")
            with staging.held(destination.parent, f".{destination.name}.", ".tmp") as staged:
                copies = staging.copy(self.tree_path(digest), staged, entries or {})
                whole = entries is not None and digests.of_entries(copies) == digest
                if whole:
                    staging.put_in_place(staged, destination)
        if not whole:
            self._forget_stamps(digest)
            raise StageError(
                f"the tree {digest[:12]} in the cache {self.root} is missing or damaged",
                fix="build again: what is damaged is built anew",
            )
        self._save_entries("deliveries", _key(str(destination)), copies)

    def delivered(self, digest: str, destination: Path) -> bool:
        """Whether `destination` holds the files of the tree and no others."""
        destination = destination.resolve()
        key = _key(str(destination))
        known = digests.entries_from_json(self._load("deliveries", key))
        try:
            entries = digests.measure(destination, known)
        except (OSError, NotPlainError):
            return False
        if digests.of_entries(entries) != digest:
            return False
        if entries != known:
            self._save_entries("deliveries", key, entries)
        return True

    def save_origin(self, destination: Path, scope: str) -> None:
        """Remember of which config an artifact's directory is."""
        if self.origin(destination) != scope:
            self._save("origins", _key(str(destination.resolve())), scope)

    def origin(self, destination: Path) -> str:
        """The config whose artifact was delivered there last; empty where it is not known."""
        value = self._load("origins", _key(str(destination.resolve())))
        return value if isinstance(value, str) else ""

    def _whole(self, digest: str) -> Entries | None:
        """The entries of a tree; None unless every byte of it is as its digest says."""
        known = digests.entries_from_json(self._load("trees", digest))
        for trusted in (known, {}) if known else ({},):  # `known` may be damaged itself
            try:
                entries = digests.measure(self.tree_path(digest), trusted)
            except (OSError, NotPlainError):
                return None
            if digests.of_entries(entries) == digest:
                if entries != known:
                    self._save_entries("trees", digest, entries)
                return entries
        return None

    def _kept(self, digest: str) -> bool:
        """Whether a tree is whole; else it is removed. The store must be locked.

        Without the lock, one build could remove as damaged what another has just replaced.
        """
        if self._whole(digest) is not None:
            return True
        self._forget_stamps(digest)
        with staging.held(self._tmp) as bin_, contextlib.suppress(FileNotFoundError):
            self.tree_path(digest).rename(bin_ / digest)
        return False

    def _forget_stamps(self, digest: str) -> None:
        """Have every file of a tree hashed when it is needed next."""
        (self.root / "trees" / f"{digest}.json").unlink(missing_ok=True)

    def _load(self, kind: str, name: str) -> Any:
        """The fact of that name; None where there is none, or what is there is not JSON."""
        try:
            return json.loads((self.root / kind / f"{name}.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return None

    def _save(self, kind: str, name: str, value: Any) -> None:
        with _explained(self.root), staging.held(self._tmp) as directory:
            staged = directory / "fact"
            staged.write_text(json.dumps(value, sort_keys=True))
            staged.replace(self.root / kind / f"{name}.json")

    def _save_entries(self, kind: str, name: str, entries: Entries) -> None:
        self._save(kind, name, digests.entries_to_json(entries))


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(digest)
    return digest


def _file_name(step: str) -> str:
    return quote(step, safe="").replace("%20", "_")


def _key(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


@contextmanager
def _explained(
    place: Path, *, elsewhere: str = "set CROSSCAST_CACHE to a directory on another disk"
) -> Iterator[None]:
    """Turn what a user can mend of a failure to write under `place` into text."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StageError(
                f"no space left on the disk of {place}", fix=f"free some, or {elsewhere}"
            ) from error
        if error.errno in _REFUSED:
            raise ConfigError(f"cannot write {place}: {error.strerror or error}") from error
        raise
