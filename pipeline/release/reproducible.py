"""Two builds from nothing, byte for byte the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crosscast.pipeline.build import build
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.digest import Entries, measure
from crosscast.pipeline.errors import GateError
from crosscast.pipeline.events import Subscriber
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store

SHARED = "overlays"
"""What two empty stores share with the real one: distributions, each pinned by a digest."""


def build_twice(config: Config, *, store: Store, settings: Settings, emit: Subscriber) -> int:
    """Build into `settings.artifacts` with an empty store, and again elsewhere with another.

    Gives the exit code of the first build that has one. Raises GateError, which names the files
    that differ.
    """
    with store.workspace() as workspace:

        def built(artifacts: Path, name: str) -> int:
            empty = _empty_store(workspace.directory(name), store)
            own = replace(settings, artifacts=artifacts)
            return build(config, store=empty, settings=own, emit=emit, only=())

        again = workspace.directory("artifacts")
        code = built(settings.artifacts, "first") or built(again, "second")
        if code == 0:
            parts = (config.model, config.version)
            _require_same(*(measure(root.joinpath(*parts)) for root in (settings.artifacts, again)))
    return code


def _empty_store(root: Path, real: Store) -> Store:
    (real.root / SHARED).mkdir(exist_ok=True)
    (root / SHARED).symlink_to(real.root / SHARED)
    return Store(root)


def _require_same(first: Entries, second: Entries) -> None:
    """Raise GateError for files that are not in both with the same bytes."""
    one, other = (
        {name: entry.sha256 for name, entry in entries.items()} for entries in (first, second)
    )
    differing = [name for name in sorted(one.keys() | other) if one.get(name) != other.get(name)]
    if differing:
        raise GateError(
            f"two builds from nothing differ in {', '.join(differing)}",
            fix="look for what is random or of the moment in the factory, the samples or a "
            "converter; a seed in the factory is the usual remedy",
        )
