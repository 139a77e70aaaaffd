"""Which artifact of a release a device takes: the best that was proven, among those that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from crosscast.pipeline.config.fields import Model, did_you_mean
from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.release.document import Release

PROFILES = Path(__file__).parents[2] / "targets" / "devices.yaml"

CoreMl = Literal["iOS15", "iOS16", "iOS17", "iOS18"]
CORE_ML: tuple[str, ...] = get_args(CoreMl)


class Limits(Model):
    """What a device cannot do; whatever is not given is not limited."""

    coreml: CoreMl | None = Field(
        default=None,
        description="Newest deployment target of Core ML that it can run; macOS 12 to 15 are "
        "iOS15 to iOS18.",
    )
    opset: int | None = Field(
        default=None, ge=1, description="Newest opset of ONNX that its runtime has."
    )
    size: int | None = Field(
        default=None, ge=1, description="Bytes that the model's files may have in all."
    )
    static: bool = Field(default=False, description="Every dimension has to have one size.")
    integer: bool = Field(
        default=False,
        description="Every operator has to be integer, inputs and outputs too (`io: int8`).",
    )


class Device(Model):
    """A kind of device: what it takes, best first."""

    summary: str = Field(default="", description="What it is, and what decides the ranking.")
    like: str | None = Field(
        default=None, description="Another profile; what is given here replaces what it says."
    )
    targets: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Names of targets, the one that suits best first."
    )
    limits: Limits = Field(default=Limits(), description="What it cannot do.")


class Profiles(Model):
    """A file of devices."""

    devices: dict[str, Device] = Field(description="Devices by name.")


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


def profiles(given: Path | None = None) -> dict[str, Device]:
    """All devices by name, with what `like` brings; those of a file of the user's go before ours.

    Raises ConfigError with every mistake of that file, and its line.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    ours = yaml.load(PROFILES.read_bytes(), Loader=loader)
    known = Profiles.model_validate(ours).devices
    if given is not None:
        known |= _read(given, known)
    return {name: _whole(name, known) for name in known}


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


def _why_not(release: Release, target: str, limits: Limits) -> str:
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


def _exceeded(artifact: Mapping[str, Any], limits: Limits) -> Iterator[str]:
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


def _whole(name: str, known: Mapping[str, Device]) -> Device:
    """The profile with what those that it is like say."""
    device = known[name]
    if device.like is None:
        return device
    base = _whole(device.like, known)
    limits = {**base.limits.model_dump(), **device.limits.model_dump(exclude_unset=True)}
    return Device(
        summary=device.summary or base.summary,
        targets=device.targets or base.targets,
        limits=Limits(**limits),
    )


def _read(path: Path, ours: Mapping[str, Device]) -> dict[str, Device]:
    """The devices of a file of the user's."""
    import os

    from crosscast.pipeline.config.document import Document
    from crosscast.pipeline.config.load import read_text
    from crosscast.pipeline.config.wording import validated
    from crosscast.targets import TARGETS

    document = Document(name=str(path), environ=os.environ)
    document.read(read_text(path))
    found = validated(document, Profiles, context={})
    known = {**ours, **(found.devices if found else {})}
    for name, device in found.devices.items() if found else ():
        for index, target in enumerate(device.targets or ()):
            if target not in TARGETS:
                what = f"there is no target '{target}'{did_you_mean(target, TARGETS)}"
                document.add(("devices", name, "targets", index), what)
        if device.like is not None and (what := _bad_base(name, known)):
            document.add(("devices", name, "like"), what)
        if device.like is None and device.targets is None:
            document.add(("devices", name), "says neither 'targets' nor what it is 'like'")
    if found is None or document.lines:
        raise ConfigError("\n".join(text for _, text in sorted(document.lines)))
    return found.devices


def _bad_base(name: str, known: Mapping[str, Device]) -> str:
    """What is wrong with what a device is like; empty where nothing is."""
    seen, now = [name], known[name].like
    while now is not None:
        if now in seen:
            return f"goes in a circle: {' -> '.join((*seen, now))}"
        if now not in known:
            return f"there is no device '{now}'{did_you_mean(now, known)}"
        seen.append(now)
        now = known[now].like
    return ""
