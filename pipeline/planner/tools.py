"""What the tools of a chain are called, and which versions of them there are."""

from __future__ import annotations

from collections.abc import Collection

from crosscast.pipeline.fingerprint import installed_version, locked_versions
from crosscast.pipeline.toolchain import Toolchain


def tool_versions(toolchains: Collection[Toolchain]) -> dict[str, str]:
    """Versions of the distributions that these toolchains use and that are installed."""
    versions: dict[str, str] = {}
    for toolchain in dict.fromkeys(toolchains):
        found = {name: installed_version(name) for name in toolchain.distributions}
        versions |= {name: version for name, version in found.items() if version}
        if toolchain.overlay:
            versions |= locked_versions(toolchain.overlay)
    return dict(sorted(versions.items()))
