"""Directories that are written aside and renamed into place; leftovers of killed builds."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from crosscast.pipeline.digest import Entries, NotPlainError, entry

_CHUNK = 1 << 20
_AT_FDCWD = -100  # of Linux's renameat2(2), as is the next
_RENAME_EXCHANGE = 2


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait until no other process is in here with the same file."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        # Closing alone would leave it to a child that was forked meanwhile.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


class TakenError(Exception):
    """Another process has it. holder: its number, as far as it is known."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"process {holder}" if holder else "another process")
        self.holder = holder


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Have a file to oneself; TakenError at once where another process has it.

    The file has the number of the process. The lock ends with the process, the file stays.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TakenError(os.read(lock, 20).decode(errors="replace").strip()) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        yield
        fcntl.flock(lock, fcntl.LOCK_UN)  # as in `locked`
    finally:
        os.close(lock)


def holder(file: Path) -> str | None:
    """The number of the process that has a file `alone`; None where nobody has."""
    try:
        with alone(file):
            return None
    except TakenError as error:
        return error.holder


@contextmanager
def held(parent: Path, prefix: str = "", suffix: str = "") -> Iterator[Path]:
    """A new directory that no sweep removes while this process lives; removed at the end."""
    lock = None
    while lock is None:
        path = parent / f"{prefix}{secrets.token_hex(8)}{suffix}"
        path.mkdir()
        lock = _lock_of_dead(path)  # None: a sweep came in between
    try:
        yield path
    finally:
        remove(path)
        os.close(lock)


def sweep(parent: Path, prefix: str = "", suffix: str = "") -> None:
    """Remove the directories of `_held` whose processes are dead."""
    name = re.compile(re.escape(prefix) + "[0-9a-f]{16}" + re.escape(suffix))
    for path in parent.iterdir():
        if name.fullmatch(path.name) and (lock := _lock_of_dead(path)) is not None:
            remove(path)
            os.close(lock)


def _lock_of_dead(path: Path) -> int | None:
    """A descriptor that locks `path`; None where a live process has it, or it is gone."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return None


def remove(path: Path) -> None:
    """Remove a directory with all it holds, whatever the modes a stage has left."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        with contextlib.suppress(OSError):
            _make_writable(path)
        shutil.rmtree(path, ignore_errors=True)


def _make_writable(directory: Path) -> None:
    """Let the owner list, enter and change every directory; files keep their modes."""
    directory.chmod(directory.stat().st_mode | stat.S_IRWXU)
    for child in directory.iterdir():
        if child.is_dir() and not child.is_symlink():
            _make_writable(child)


def freeze(directory: Path) -> None:
    """Make what a stage wrote fit to be kept: read-only files of its own, no empty directories.

    A file that is linked from elsewhere would change with it; it becomes a copy.
    """
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise NotPlainError(f"{directory} is not a directory")
    _make_writable(directory)
    for parent, _, names in os.walk(directory, topdown=False):
        for file in (Path(parent, name) for name in names):
            status = file.lstat()
            if stat.S_ISREG(status.st_mode):
                if status.st_nlink > 1:
                    _unlink_from_elsewhere(file)
                file.chmod((status.st_mode & 0o555) | stat.S_IRUSR)
        if Path(parent) != directory and not any(Path(parent).iterdir()):
            Path(parent).rmdir()


def _unlink_from_elsewhere(file: Path) -> None:
    copy = file.with_name(secrets.token_hex(8))
    shutil.copyfile(file, copy)
    copy.replace(file)


def copy(source: Path, destination: Path, names: Iterable[str]) -> Entries:
    """Copy the files of those names that are there; entries of what was really read."""
    copies = {}
    for name in names:
        path = destination / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # It may vanish meanwhile: another build removes a tree that it finds damaged.
        with contextlib.suppress(FileNotFoundError), (source / name).open("rb") as reader:
            copies[name] = entry(path, _copy_file(reader, path))
    return copies


def _copy_file(reader: BinaryIO, path: Path) -> str:
    """Write what `reader` gives to a new file; its sha256."""
    sha256 = hashlib.sha256()
    with path.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            sha256.update(chunk)
            writer.write(chunk)
    return sha256.hexdigest()


def put_in_place(staged: Path, destination: Path) -> None:
    """Rename `staged` to `destination`; what was there before gets the name of `staged`."""
    while True:
        try:
            _exchange(staged, destination)
            return
        except FileNotFoundError:
            pass
        try:
            staged.rename(destination)
            return
        except OSError as error:
            # Another build has delivered in between.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _exchange(one: Path, other: Path) -> None:
    """Swap two names: in one instant on Linux, with an instant without `other` elsewhere."""
    if not _exchange_at_once(one, other):
        aside = one.with_name(f"{one.name}.old")
        other.rename(aside)
        one.rename(other)
        aside.rename(one)


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Swap two names in one instant; False where the system or filesystem cannot."""
    import ctypes  # takes milliseconds, and only a delivery needs it

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
