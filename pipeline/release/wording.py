"""What `pull` says of releases, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crosscast.pipeline.release.document import DEVICES

if TYPE_CHECKING:
    from crosscast.pipeline.config.profiles import Device
    from crosscast.pipeline.release.devices import Choice
    from crosscast.pipeline.release.document import Release
    from crosscast.pipeline.release.located import Located
    from crosscast.pipeline.release.pull import Found, Pulled

MIB = 2**20


def headline(found: Found | Located, *, signed: bool) -> str:
    """Which release it is."""
    release = found.release
    said = "signature right" if signed else "signature not checked: no --key"
    return f"{release.model} {release.version} of {found.place}, {release.digest[:12]}, {said}"


def listed(release: Release) -> str:
    """A line for each target of a release, and one for the devices that come with it."""
    lines = [
        f"{name:<20} {_size(release, name):>10}  {artifact['verdict']['status']}"
        for name, artifact in release.content["artifacts"].items()
    ]
    own = release.content.get(DEVICES, {})
    return "\n".join([*lines, *([f"its own devices: {', '.join(own)}"] if own else [])])


def device(name: str, profile: Device) -> str:
    """A device, the targets that it takes, and its limits where it has some."""
    takes = ", ".join(profile.targets)
    limits = [
        f"{key} {value}" if key != "size" else f"size {value / MIB:g} MiB"
        for key, value in profile.limits.items()
    ]
    told = f"{'':<20} limits: {', '.join(limits)}".replace(" True", "") if limits else ""
    return "\n".join(filter(None, [f"{name:<20} {profile.summary}", f"{'':<20} {takes}", told]))


def taken(release: Release, choice: Choice) -> str:
    """What is pulled."""
    status = release.content["artifacts"][choice.target]["verdict"]["status"]
    device = f" for {choice.device}" if choice.device else ""
    return f"{choice.target}{device}: {_size(release, choice.target)}, {status}"


def delivered(pulled: Pulled) -> str:
    """What was done."""
    path = pulled.path
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if not pulled.brought:
        return f"{shown} is up to date"
    return f"{shown} <- {pulled.brought / MIB:.1f} MiB"


def _size(release: Release, target: str) -> str:
    return f"{sum(entry.size for entry in release.entries(target)) / MIB:.1f} MiB"
