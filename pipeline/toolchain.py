"""The interpreter and distributions that a step's worker runs with. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

Warmth = tuple[tuple[str, ...], Path | None]
"""What a warm parent has imported, and its overlay: toolchains that agree in it share one."""


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """Where a step runs.

    preload: modules that the warm parent imports once, never to run an op (a parent that ran one
        hands its children locks that nobody will release). A missing one is passed over: the
        step itself says what it lacks.
    later: modules that it imports as well, once it has nothing else to do; toolchains that share
        a warm parent may differ in them.
    hidden: modules that workers do not see though they may be installed: frameworks that a
        converter imports wherever it finds them, for seconds, and that its step does not need.
    distributions: those whose versions a step's result depends on.
    extra: the extra of crosscast that installs them.
    overlay: lock file of a directory of exactly pinned distributions that only this toolchain's
        workers see, in front of their path.
    """

    name: str
    preload: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    extra: str = ""
    overlay: Path | None = None

    @property
    def warmth(self) -> Warmth:
        """What its warm parent has to be like."""
        return self.preload, self.overlay


CORE = Toolchain(name="core", preload=("numpy", "safetensors.numpy"), distributions=("numpy",))


IMAGES = Toolchain(
    name="images", preload=CORE.preload, distributions=("numpy", "pillow"), extra="images"
)
"""Where a folder of images is read."""


def with_images(toolchain: Toolchain) -> Toolchain:
    """The toolchain, whose steps read images as well."""
    if toolchain == CORE:
        return IMAGES
    distributions = (*toolchain.distributions, "pillow")
    return replace(toolchain, name=f"{toolchain.name}+images", distributions=distributions)
