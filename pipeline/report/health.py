"""The findings of `crosscast doctor` as text."""

from __future__ import annotations

from collections.abc import Sequence

from crosscast.pipeline.doctor import TargetHealth, ToolchainHealth


def describe(toolchains: Sequence[ToolchainHealth], targets: Sequence[TargetHealth]) -> str:
    """Toolchains with versions and what to install, then targets with what they need."""
    lines = ["toolchains"]
    for health in toolchains:
        versions = ", ".join(
            f"{name} {version or 'MISSING'}" for name, version in health.versions.items()
        )
        lines.append(f"  {health.toolchain.name:<18} {versions}")
        lines += [f"  {'':<18} fix: {health.fix}"] if health.fix else []
        if health.overlay == "not built":
            lines.append(
                f"  {'':<18} overlay not built: the first build, or --build-overlays, does"
            )
        elif health.overlay:
            lines.append(f"  {'':<18} overlay built")
    lines.append("targets")
    for target in targets:
        builds, runs = ("yes" if flag else "no" for flag in (target.builds, target.runs))
        needs = f"  ({target.needs})" if target.needs else ""
        lines.append(f"  {target.target:<14} builds: {builds:<4} runs: {runs:<4}{needs}")
    return "\n".join(lines)
