"""Which artifact of a release a device takes: the best that was proven, among those that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crosscast.pipeline.config.names import did_you_mean
from crosscast.pipeline.config.profiles import Device, Written, complete, ours
from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.release.document import DEVICES, Release

CORE_ML = "iOS"
"""How a deployment target of Core ML begins, as the device's limit does; newer ones sort higher."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A target that a device takes. why_not: why not from this release; empty where it fits."""

    target: str
    why_not: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a device gets. judged: every target that it takes, best first."""

    device: str
    target: str
    judged: tuple[Judged, ...]

    def explained(self) -> Iterator[str]:
        """Why this one, and why no better-ranked one: a line each."""
        better = True
        for entry in self.judged:
            if entry.target == self.target:
                better = False
                yield f"{entry.target}: taken, the first that fits {self.device}"
            elif entry.why_not:
                yield f"{entry.target}: {entry.why_not}"
            elif not better:
                yield f"{entry.target}: fits, but is ranked lower"


def profiles(
    given: Path | None = None, *, shipped: Mapping[str, Written] | None = None
) -> dict[str, Device]:
    """All devices by name; those of a file of the user's go before those that come with a release,
    and these before ours.

    Raises ConfigError with every mistake of that file, and its line.
    """
    known = {**ours(), **(shipped or {})}
    if given is not None:
        known |= _read(given, known)
    return {name: complete(name, known) for name in known}


def to_ship(own: Mapping[str, Written]) -> dict[str, Any]:
    """Devices of a config as a release has them: complete, since ours may be others by the time
    that it is pulled. JSON-able.
    """
    known = {**ours(), **own}
    devices = {name: asdict(complete(name, known)) for name in own}
    return {
        name: {**device, "targets": list(device["targets"])} for name, device in devices.items()
    }


def shipped(release: Release) -> Mapping[str, Written]:
    """The devices that come with a release. Raises RegistryError where they cannot be used."""
    told: Mapping[str, Written] = release.content.get(DEVICES, {})
    if told != {} and (wrong := _unusable(told)):
        raise RegistryError(
            f"{release.model} {release.version}: its devices cannot be used: {wrong}",
            fix="use the crosscast that published it, or pull by --target",
        )
    return told


def _unusable(told: Any) -> str:
    """What is wrong with the devices that a release tells of; empty where nothing is."""
    from pydantic import ValidationError

    from crosscast.pipeline.config.devices import Profiles

    try:
        found = Profiles(devices=told).devices
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"
    lacking = [name for name, it in found.items() if it.like is not None or it.targets is None]
    return f"{lacking[0]} is not complete" if lacking else ""


def find(name: str, known: Mapping[str, Device]) -> Device:
    """The device of that name; ConfigError where there is none."""
    if name not in known:
        raise ConfigError(
            f"no device '{name}'{did_you_mean(name, known)}",
            fix="`crosscast devices` lists them; --devices FILE adds your own",
        )
    return known[name]


def choose(release: Release, name: str, device: Device) -> Choice:
    """The target that suits the device best, of those in the release that were proven and fit.

    Raises RegistryError where none does: it says which is nearest, and why that one does not.
    """
    judged = tuple(
        Judged(target=target, why_not=_why_not(release, target, device.limits))
        for target in device.targets
    )
    for entry in judged:
        if not entry.why_not:
            return Choice(device=name, target=entry.target, judged=judged)
    there = [entry for entry in judged if entry.target in release.content["artifacts"]]
    # One that was proven is nearer than one that was not.
    there.sort(key=lambda entry: not _passed(release, entry.target))
    found = f"{release.model} {release.version} has nothing that fits {name}"
    if there:
        raise RegistryError(
            f"{found}; nearest is {there[0].target}, but it {there[0].why_not}",
            fix="build what fits, or pull one by --target",
        )
    raise RegistryError(
        f"{found}: it has {', '.join(release.content['artifacts'])}, and the device takes "
        f"{', '.join(device.targets)}",
        fix="add one of these to the config's targets and release it",
    )


def _why_not(release: Release, target: str, limits: Mapping[str, Any]) -> str:
    """Why the target cannot be taken, as the rest of a sentence on it; empty where it can."""
    artifact = release.content["artifacts"].get(target)
    if artifact is None:
        return "is not in this release"
    if not _passed(release, target):
        verdict = artifact["verdict"]
        reason = f" ({verdict['reason']})" if verdict.get("reason") else ""
        return f"was not proven: {verdict['status']}{reason}"
    return next(_exceeded(artifact, limits), "")


def _passed(release: Release, target: str) -> bool:
    return bool(release.content["artifacts"][target]["verdict"]["status"] == "passed")


def _exceeded(artifact: Mapping[str, Any], limits: Mapping[str, Any]) -> Iterator[str]:
    """What the artifact has of what the device has not."""
    options = artifact["options"]
    minimum, coreml = str(options.get("minimum")), limits.get("coreml")
    if coreml and minimum.startswith(CORE_ML) and minimum > coreml:
        yield f"needs {minimum}, and the device ends at {coreml}"
    opset = limits.get("opset")
    if opset and (options.get("opset") or 0) > opset:
        yield f"has opset {options['opset']}, and the device's runtime ends at {opset}"
    size = sum(file["size"] for file in artifact["files"] if file["path"].startswith("model."))
    room = limits.get("size")
    if room and size > room:
        yield f"has {size / 2**20:.1f} MiB, and the device has room for {room / 2**20:.1f}"
    dynamic = [name for name, sizes in artifact["dims"].items() if len(set(sizes)) != 1]
    if limits.get("static") and dynamic:
        yield f"has the dynamic dimension {dynamic[0]}, and the device takes fixed sizes only"
    if limits.get("integer") and (floats := _floats(artifact)):
        yield f"has {floats} in float, and the device computes in integers only"


def _floats(artifact: Mapping[str, Any]) -> str:
    """What of the artifact is not integer; empty where all is."""
    if (artifact["precision"] or {}).get("kept_in_float"):
        return "some operators"
    tensors = (*artifact["inputs"], *artifact["outputs"])
    return ", ".join(tensor["name"] for tensor in tensors if "float" in tensor["dtype"])


def _read(path: Path, known: Mapping[str, Written]) -> dict[str, Written]:
    """The devices of a file of the user's."""
    import os

    from crosscast.pipeline.config.devices import Profiles, check, written
    from crosscast.pipeline.config.document import Document
    from crosscast.pipeline.config.load import read_text
    from crosscast.pipeline.config.wording import validated

    document = Document(name=str(path), environ=os.environ)
    document.read(read_text(path))
    found = validated(document, Profiles, context={})
    own = written(found.devices) if found else {}
    check(document, ("devices",), own, {**known, **own})
    if document.lines:
        raise ConfigError("\n".join(text for _, text in sorted(document.lines)))
    return own
