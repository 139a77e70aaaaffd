"""Which artifact of a release a device takes: the best that was proven, among those that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crosscast.pipeline.config.devices import (
    CORE_ML,
    Device,
    DeviceLimits,
    Profiles,
    check,
    ours,
    whole,
)
from crosscast.pipeline.config.fields import did_you_mean
from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.release.document import DEVICES, Release


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
    given: Path | None = None, *, shipped: Mapping[str, Device] | None = None
) -> dict[str, Device]:
    """All devices by name, with what `like` brings; those of a file of the user's go before those
    that come with a release, and these before ours.

    Raises ConfigError with every mistake of that file, and its line.
    """
    known = {**ours(), **(shipped or {})}
    if given is not None:
        known |= _read(given, known)
    return {name: whole(name, known) for name in known}


def to_ship(own: Mapping[str, Device]) -> dict[str, Any]:
    """Devices of a config as a release has them: complete, since ours may be others by the time
    that it is pulled. JSON-able.
    """
    known = {**ours(), **own}
    return {name: whole(name, known).model_dump(mode="json", exclude_defaults=True) for name in own}


def shipped(release: Release) -> dict[str, Device]:
    """The devices that come with a release. Raises RegistryError where they cannot be used."""
    try:
        found = Profiles(devices=release.content.get(DEVICES, {})).devices
        lacking = [name for name in found if not _complete(found[name])]
        wrong = f"{lacking[0]} is not complete" if lacking else ""
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"
    if wrong:
        raise RegistryError(
            f"{release.model} {release.version}: its devices cannot be used: {wrong}",
            fix="use the crosscast that published it, or pull by --target",
        )
    return found


def _complete(device: Device) -> bool:
    return device.like is None and device.targets is not None


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
        for target in device.targets or ()
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
        f"{', '.join(device.targets or ())}",
        fix="add one of these to the config's targets and release it",
    )


def _why_not(release: Release, target: str, limits: DeviceLimits) -> str:
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


def _exceeded(artifact: Mapping[str, Any], limits: DeviceLimits) -> Iterator[str]:
    """What the artifact has of what the device has not."""
    options = artifact["options"]
    minimum = options.get("minimum")
    if limits.coreml and minimum in CORE_ML and minimum > limits.coreml:
        yield f"needs {minimum}, and the device ends at {limits.coreml}"
    if limits.opset and (options.get("opset") or 0) > limits.opset:
        yield f"has opset {options['opset']}, and the device's runtime ends at {limits.opset}"
    size = sum(file["size"] for file in artifact["files"] if file["path"].startswith("model."))
    if limits.size and size > limits.size:
        yield f"has {size / 2**20:.1f} MiB, and the device has room for {limits.size / 2**20:.1f}"
    dynamic = [name for name, sizes in artifact["dims"].items() if len(set(sizes)) != 1]
    if limits.static and dynamic:
        yield f"has the dynamic dimension {dynamic[0]}, and the device takes fixed sizes only"
    if limits.integer and (floats := _floats(artifact)):
        yield f"has {floats} in float, and the device computes in integers only"


def _floats(artifact: Mapping[str, Any]) -> str:
    """What of the artifact is not integer; empty where all is."""
    if (artifact["precision"] or {}).get("kept_in_float"):
        return "some operators"
    tensors = (*artifact["inputs"], *artifact["outputs"])
    return ", ".join(tensor["name"] for tensor in tensors if "float" in tensor["dtype"])


def _read(path: Path, known: Mapping[str, Device]) -> dict[str, Device]:
    """The devices of a file of the user's."""
    import os

    from crosscast.pipeline.config.document import Document
    from crosscast.pipeline.config.load import read_text
    from crosscast.pipeline.config.wording import validated

    document = Document(name=str(path), environ=os.environ)
    document.read(read_text(path))
    found = validated(document, Profiles, context={})
    if found is not None:
        check(document, ("devices",), found.devices, {**known, **found.devices})
    if found is None or document.lines:
        raise ConfigError("\n".join(text for _, text in sorted(document.lines)))
    return found.devices
