"""Releases where they are: found by what people call them, their artifacts brought here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from crosscast.pipeline.manifest import MANIFEST
from crosscast.pipeline.release import pull, reference
from crosscast.pipeline.release.diff import Comparison, compare, same_model
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Release, parse
from crosscast.pipeline.release.latency import measure
from crosscast.pipeline.release.registries.base import INDEX, Registry, released
from crosscast.pipeline.release.transfer import bring_target, check_target
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store, Workspace
from crosscast.targets import TARGETS


@dataclass(frozen=True, kw_only=True)
class Located:
    """A release, and how a target's artifact of it is had: `fetch(target, folder)` gives its
    directory, which is `folder` where it has to be brought from elsewhere; each file is verified.
    Raises RegistryError.

    place: the directory or registry.
    """

    place: str
    release: Release
    fetch: Callable[[str, Path], Path]

    @classmethod
    def at(cls, folder: Path, release: Release) -> Located:
        """One that is in a directory."""

        def fetch(target: str, _: Path) -> Path:
            check_target(release, target, folder=folder / target)
            return folder / target

        return cls(place=str(folder), release=release, fetch=fetch)

    @classmethod
    def of(cls, registry: Registry, model: str, version: str, *, where: str) -> Located:
        """One that is in a registry. Raises RegistryError."""
        _, release = released(registry, model=model, version=version, where=where)
        return cls.brought(registry, release, place=where)

    @classmethod
    def brought(cls, registry: Registry, release: Release, *, place: str) -> Located:
        """One that is in a registry, and was read."""

        def fetch(target: str, folder: Path) -> Path:
            bring_target(registry, release, target, folder=folder)
            return folder

        return cls(place=place, release=release, fetch=fetch)


def is_named(text: str, *, registry: str) -> bool:
    """Whether the text names a release, and no artifact: by a `@`, by a url, by its directory or
    that of its model, or by a model that is in the registry.
    """
    index = Path(registry, text, INDEX)
    if Path(text, MANIFEST).is_file():
        return False
    known = any(path.is_file() for path in (Path(text, RELEASE), Path(text, INDEX), index))
    return known or "@" in text or "://" in text or "://" in registry


def find(text: str, *, registry: str, key: Path | None = None) -> Located:
    """The release in a directory, or that of `[REGISTRY/]MODEL[@NAME]`, by default in `registry`,
    its signature checked by a key.

    Raises ConfigError, RegistryError.
    """
    if (Path(text) / RELEASE).is_file():
        return _in(Path(text), key)
    wanted = reference.parse(text)
    found = pull.named(replace(wanted, registry=wanted.registry or registry), key=key)
    return Located.brought(found.registry, found.release, place=found.place)


def _in(folder: Path, key: Path | None) -> Located:
    """The release in a directory."""
    document, signature = (folder / RELEASE).read_bytes(), folder / SIGNATURE
    if key is not None:
        pull.check_signed(document, signature.read_bytes() if signature.exists() else None, key)
    return Located.at(folder, parse(document, where=str(folder / RELEASE)))


def compared(
    before: Located,
    after: Located,
    *,
    workspace: Workspace,
    store: Store,
    settings: Settings,
    latency: bool,
) -> Comparison:
    """Hold a release against an earlier one. latency: whether artifacts are timed as well; those
    whose files are the same need not be.
    """
    old, new = before.release.content["artifacts"], after.release.content["artifacts"]
    timed = [
        name
        for name in new
        if latency and name in old and name in TARGETS and not same_model(old[name], new[name])
    ]
    pairs = {
        name: (
            before.fetch(name, workspace.directory(f"before {name}")),
            after.fetch(name, workspace.directory(f"after {name}")),
        )
        for name in timed
    }
    timings = measure(pairs, store=store, settings=settings)
    return compare(before.release, after.release, timings=timings)
