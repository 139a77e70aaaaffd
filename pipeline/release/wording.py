"""What `pull` says of releases, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crosscast.pipeline.release.devices import Choice
    from crosscast.pipeline.release.document import Release
    from crosscast.pipeline.release.pull import Found, Pulled

KIB, MIB = 2**10, 2**20


def headline(found: Found, *, signed: bool) -> str:
    """Which release it is."""
    release = found.release
    said = "signature right" if signed else "signature not checked: no --key"
    return (
        f"{release.model} {release.version} of {found.place}, digest {release.digest[:12]}, {said}"
    )


def targets(release: Release) -> str:
    """A line for each target of a release."""
    return "\n".join(
        f"{name:<20} {_whole(release, name):>10}  {artifact['verdict']['status']}"
        for name, artifact in release.content["artifacts"].items()
    )


def taken(release: Release, choice: Choice) -> str:
    """What is pulled."""
    status = release.content["artifacts"][choice.target]["verdict"]["status"]
    device = f" for {choice.device}" if choice.device else ""
    return f"{choice.target}{device}: {_whole(release, choice.target)}, {status}"


def delivered(pulled: Pulled) -> str:
    """What was done."""
    path = pulled.path
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if not pulled.brought:
        return f"{shown} is up to date"
    return f"{shown}: {_size(pulled.brought)} downloaded"


def _whole(release: Release, target: str) -> str:
    return _size(sum(entry.size for entry in release.entries(target)))


def _size(number: int) -> str:
    return f"{number / KIB:.1f} KiB" if number < MIB else f"{number / MIB:.1f} MiB"
