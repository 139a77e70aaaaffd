"""Releases where they are: found by what people call them, their artifacts brought here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crosscast.pipeline.release import channels, reference
from crosscast.pipeline.release.diff import Comparison, compare, same_model
from crosscast.pipeline.release.document import RELEASE, Release, parse
from crosscast.pipeline.release.latency import measure
from crosscast.pipeline.release.registries import open_registry
from crosscast.pipeline.release.registries.base import Registry, released
from crosscast.pipeline.release.transfer import bring_target
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store, Workspace
from crosscast.targets import TARGETS


@dataclass(frozen=True, kw_only=True)
class Located:
    """A release, and how a target's artifact of it is had: `fetch(target, folder)` gives its
    directory, which is `folder` where it has to be brought from elsewhere.
    """

    release: Release
    fetch: Callable[[str, Path], Path]

    @classmethod
    def at(cls, folder: Path, release: Release) -> Located:
        """One that is in a directory."""
        return cls(release=release, fetch=lambda target, _: folder / target)

    @classmethod
    def of(cls, registry: Registry, model: str, version: str, *, where: str) -> Located:
        """One that is in a registry. Raises RegistryError."""
        _, release = released(registry, model=model, version=version, where=where)

        def fetch(target: str, folder: Path) -> Path:
            bring_target(registry, release, target, folder=folder)
            return folder

        return cls(release=release, fetch=fetch)


def find(text: str, *, registry: str) -> Located:
    """The release in a directory, or that of `[REGISTRY/]MODEL[@NAME]`, by default in `registry`.

    Raises ConfigError, RegistryError.
    """
    if (Path(text) / RELEASE).is_file():
        folder = Path(text)
        document = (folder / RELEASE).read_bytes()
        return Located.at(folder, parse(document, where=str(folder / RELEASE)))
    named = reference.parse(text)
    where = named.registry or registry
    opened = open_registry(where)
    shelf = channels.read(opened, named.model)
    name = named.name or next(reversed(shelf.ordered()), "")
    version = shelf.resolve(name, model=f"{where}/{named.model}")
    return Located.of(opened, named.model, version, where=where)


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
