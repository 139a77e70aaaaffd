"""Pull: the right artifact of a release, verified, into a directory that appears at once.

Files arrive in a hidden directory beside the destination, which a killed pull leaves behind and
the next one goes on with; it is renamed into place when all of it is right and on the disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscast.pipeline import manifest, staging
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import ConfigError, RegistryError, StageError
from crosscast.pipeline.release import channels, devices, reference
from crosscast.pipeline.release.devices import Choice
from crosscast.pipeline.release.document import SIGNATURE, Entry, Release
from crosscast.pipeline.release.lock import Lock
from crosscast.pipeline.release.reference import Reference
from crosscast.pipeline.release.registries import open_registry
from crosscast.pipeline.release.registries.base import DAMAGED, Registry, released
from crosscast.pipeline.release.transfer import Tell, bring_target
from crosscast.pipeline.web import shown

OURS = (manifest.MANIFEST, "USAGE.md")
"""Files of an artifact that its manifest does not list."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A release in a registry. lock: what a lock file says, None without one."""

    registry: Registry
    place: str
    release: Release
    lock: Lock | None


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What is in place. brought: bytes that had to be downloaded."""

    path: Path
    brought: int


def find(name: str, *, key: Path | None = None, lock: Path | None = None) -> Found:
    """The release that `REGISTRY/MODEL[@VERSION|@CHANNEL]` names, its signature checked by a key.

    lock: a lock file; the version that it names takes the place of a channel's.
    Raises ConfigError, RegistryError.
    """
    wanted = reference.parse(name)
    if not wanted.registry:
        raise ConfigError(
            f"'{name}' names no registry",
            fix=f"write REGISTRY/MODEL, such as ./artifacts/{wanted.model} or "
            f"https://host/models/{wanted.model}",
        )
    return named(wanted, key=key, lock=lock)


def named(wanted: Reference, *, key: Path | None = None, lock: Path | None = None) -> Found:
    """`find`, of what names a registry."""
    registry = open_registry(wanted.registry)
    place = shown(wanted.registry)
    locked = Lock.read(lock) if lock else None
    shelf = channels.read(registry, wanted.model)
    if not shelf.versions:
        raise RegistryError(
            f"{place} has no model '{wanted.model}'", fix="check its name and the registry's"
        )
    version = shelf.resolve(wanted.name, model=wanted.model) if wanted.name else shelf.ordered()[-1]
    if locked and wanted.name not in shelf.versions:
        version = locked.version
    release = _release(registry, place, wanted.model, version, key)
    if shelf.versions.get(version, release.digest) != release.digest:
        raise RegistryError(
            f"{place}: {wanted.model} {version} is another release than the index names: digest "
            f"{release.digest[:12]}, not {shelf.versions[version][:12]}",
            fix=DAMAGED,
        )
    return Found(registry=registry, place=place, release=release, lock=locked)


def choose(
    found: Found, *, device: str | None, target: str | None, profiles: Path | None = None
) -> Choice:
    """The target that is asked for, or that suits a device best. Raises ConfigError where neither
    is given, RegistryError where the release has nothing such.
    """
    if (device is None) == (target is None):
        raise ConfigError(
            "one of --device and --target is needed",
            fix="`crosscast devices` lists the devices, `pull … --list` the targets",
        )
    if device is not None:
        known = devices.profiles(profiles, shipped=devices.shipped(found.release))
        return devices.choose(found.release, device, devices.find(device, known))
    assert target is not None
    require_target(found.release, target)
    return Choice(device="", target=target, judged=())


def require_target(release: Release, target: str) -> None:
    """Raise RegistryError where the release has no such target."""
    if target not in release.content["artifacts"]:
        raise RegistryError(
            f"{release.model} {release.version} has no target '{target}'",
            fix=f"it has {', '.join(release.content['artifacts'])}",
        )


def pull(
    found: Found, choice: Choice, *, out: Path | None, lock: Path | None, tell: Tell
) -> Pulled:
    """Have the artifact in the directory `out`, by default one of the model's name; and the lock.

    Raises RegistryError, ConfigError where something else is in its place, StageError of the disk.
    """
    release = found.release
    pinned = Lock.of(release, choice.target, registry=found.place)
    if lock and found.lock:
        found.lock.check(pinned, path=lock)
    destination = (out or Path(release.model)).absolute()
    entries = {entry.path.partition("/")[2]: entry for entry in release.entries(choice.target)}
    with _disk_errors(destination):
        if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
            raise _taken(destination, "it is no directory")
        brought = 0
        if _is_there(destination, entries):
            _sweep_staging(destination)
        else:
            _check_free(destination)
            brought = _deliver(found, choice.target, entries, destination, tell)
    if lock and not found.lock:
        with _disk_errors(lock):
            pinned.write(lock)
    return Pulled(path=destination, brought=brought)


def _release(registry: Registry, place: str, model: str, version: str, key: Path | None) -> Release:
    """The release of a version, whose signature is right if a key is given."""
    data, release = released(registry, model=model, version=version, where=place)
    if key is not None:
        check_signed(data, registry.document(model=model, version=version, name=SIGNATURE), key)
    return release


def check_signed(document: bytes, envelope: bytes | None, key: Path) -> None:
    """Raise RegistryError where a release.json is not what that public key's owner signed."""
    from crosscast.pipeline.release import signing

    signing.verify(document, envelope, signing.read_public(key))


def _deliver(
    found: Found, target: str, entries: dict[str, Entry], destination: Path, tell: Tell
) -> int:
    """Download the files and put them in place; the bytes that were brought."""
    with _staging(destination) as folder:
        tree = folder / "tree"
        tree.mkdir(exist_ok=True)
        _sweep(tree, entries)
        brought = bring_target(found.registry, found.release, target, folder=tree, tell=tell)
        _check_free(destination)
        staging.sync(*tree.rglob("*"), tree)
        staging.put_in_place(tree, destination)
        staging.sync(destination.parent)
        staging.remove(folder)
    return brought


def _staging_path(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.pull")


def _sweep_staging(destination: Path) -> None:
    """Remove what a pull left that was killed when all was in place."""
    if _staging_path(destination).exists():
        with _staging(destination) as folder:
            staging.remove(folder)


@contextmanager
def _staging(destination: Path) -> Iterator[Path]:
    """The directory that is the next one's if this process dies, and no other's meanwhile."""
    path = _staging_path(destination)
    while True:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(lock), path.lstat()):
                yield path
                return
        finally:  # another pull has ended and removed it meanwhile: a new one is made
            os.close(lock)


def _sweep(tree: Path, entries: dict[str, Entry]) -> None:
    """Remove what is left of a pull of something else."""
    for path in sorted(tree.rglob("*"), reverse=True):
        if path.is_symlink() or not path.is_dir():
            if path.is_symlink() or path.relative_to(tree).as_posix() not in entries:
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def _is_there(destination: Path, entries: dict[str, Entry]) -> bool:
    """Whether the directory has all files, and no others."""
    return _names(destination) == set(entries) and all(
        (destination / path).stat().st_size == entry.size
        and file_sha256(destination / path) == entry.sha256
        for path, entry in entries.items()
    )


def _check_free(destination: Path) -> None:
    """Raise ConfigError where there is something that is no artifact: it would be lost."""
    present = _names(destination)
    if not present:
        return
    try:
        told: dict[str, Any] = manifest.read(destination)
        strangers = present - {*OURS, *(str(entry["path"]) for entry in told["files"])}
    except (ConfigError, KeyError, TypeError):
        raise _taken(destination, "what is in it is no artifact") from None
    if strangers:
        raise _taken(destination, f"'{min(strangers)}' in it is of no artifact")


def _names(folder: Path) -> set[str]:
    """All that is below a directory and is none."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _taken(destination: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{destination}: {why}, and would be lost", fix="name another directory with -o"
    )


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "no space left on the disk" if full else error.strerror
        raise StageError(
            f"{path}: cannot be written: {why}",
            fix="free some space and pull again; what has arrived is kept"
            if full
            else "check its permissions, or name another place",
        ) from error
