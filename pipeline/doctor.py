"""What is installed here, which targets can be built and run, and what to install."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crosscast.pipeline.executors import overlay
from crosscast.pipeline.fingerprint import installed_version
from crosscast.pipeline.sources import SOURCES, open_source
from crosscast.pipeline.toolchain import IMAGES, Toolchain
from crosscast.targets import TARGETS
from crosscast.targets.base import toolchains as toolchains_by_kind


@dataclass(frozen=True, kw_only=True)
class ToolchainHealth:
    """A toolchain's distributions with their versions (None: not installed) and its overlay.

    overlay: "built", "not built", or empty where the toolchain has none.
    """

    toolchain: Toolchain
    versions: dict[str, str | None]
    overlay: str

    @property
    def fix(self) -> str:
        """What to install; empty where nothing is missing."""
        if None in self.versions.values():
            return f"pip install 'crosscast[{self.toolchain.extra}]'"
        return ""


@dataclass(frozen=True, kw_only=True)
class TargetHealth:
    """Whether a target can be built, at least from one kind of source, and run here; `needs` says
    what stands in the way.
    """

    target: str
    summary: str
    builds: bool
    runs: bool
    needs: str


def toolchains(cache: Path) -> list[ToolchainHealth]:
    """The health of every toolchain that a source or a target uses."""
    sources = [open_source({"kind": kind}).toolchain for kind in SOURCES]
    chains = [*sources, *(chain for name in TARGETS for chain in _toolchains_of(name)), IMAGES]
    used = {chain.name: chain for chain in chains}
    return [_health(chain, cache) for chain in used.values()]


def targets(cache: Path) -> list[TargetHealth]:
    """The health of every target."""
    return [_target_health(name, cache) for name in TARGETS]


def build_overlays(cache: Path) -> list[Path]:
    """Build every overlay that is not there yet (needs the package index); their directories."""
    locks = {chain.overlay for name in TARGETS for chain in _toolchains_of(name) if chain.overlay}
    return [overlay.build(lock, cache) for lock in sorted(locks)]


def _toolchains_of(name: str) -> list[Toolchain]:
    target = TARGETS[name]
    chains = [*toolchains_by_kind(target).values(), target.quantizer, target.runtime]
    return [chain for chain in chains if chain is not None]


def _health(chain: Toolchain, cache: Path) -> ToolchainHealth:
    state = ""
    if chain.overlay:
        state = "built" if overlay.installed(chain.overlay, cache) else "not built"
    return ToolchainHealth(
        toolchain=chain,
        versions={name: installed_version(name) for name in chain.distributions},
        overlay=state,
    )


def _target_health(name: str, cache: Path) -> TargetHealth:
    target = TARGETS[name]
    routes = {kind: _health(chain, cache).fix for kind, chain in toolchains_by_kind(target).items()}
    ends = [chain for chain in (target.quantizer, target.runtime) if chain is not None]
    missing = {fix for chain in ends if (fix := _health(chain, cache).fix)}
    missing |= set(routes.values()) if all(routes.values()) else set()
    partly = {f"from {kind}: {fix}" for kind, fix in routes.items() if fix and fix not in missing}
    absent = [target.no_runtime] if target.no_runtime else []
    runtime_missing = bool(_health(target.runtime, cache).fix)
    return TargetHealth(
        target=name,
        summary=target.summary,
        builds=not missing,
        runs=not runtime_missing and not target.no_runtime,
        needs="; ".join([*sorted(missing), *sorted(partly), *absent]),
    )
