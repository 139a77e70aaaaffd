"""Devices: what each takes, and what it cannot do. Those that everybody has are in
`targets/devices.yaml`; a config adds its own, and so does a file of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from crosscast.pipeline.config.document import Document, Loc
from crosscast.pipeline.config.fields import Model, did_you_mean

PROFILES = Path(__file__).parents[2] / "targets" / "devices.yaml"

CoreMl = Literal["iOS15", "iOS16", "iOS17", "iOS18"]
CORE_ML: tuple[str, ...] = get_args(CoreMl)


class DeviceLimits(Model):
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
    limits: DeviceLimits = Field(default=DeviceLimits(), description="What it cannot do.")


class Profiles(Model):
    """A file of devices."""

    devices: dict[str, Device] = Field(description="Devices by name.")


def ours() -> dict[str, Device]:
    """The devices that everybody has."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return Profiles.model_validate(yaml.load(PROFILES.read_bytes(), Loader=loader)).devices


def whole(name: str, known: Mapping[str, Device]) -> Device:
    """The profile with what those that it is like say."""
    device = known[name]
    if device.like is None:
        return device
    base = whole(device.like, known)
    limits = {**base.limits.model_dump(), **device.limits.model_dump(exclude_unset=True)}
    return Device(
        summary=device.summary or base.summary,
        targets=device.targets or base.targets,
        limits=DeviceLimits(**limits),
    )


def check(
    document: Document, at: Loc, own: Mapping[str, Device], known: Mapping[str, Device]
) -> None:
    """Note what is wrong with devices that stand in a document at a place; `known` are those that
    they may be like, themselves included.
    """
    from crosscast.targets import TARGETS

    for name, device in own.items():
        for index, target in enumerate(device.targets or ()):
            if target not in TARGETS:
                what = f"there is no target '{target}'{did_you_mean(target, TARGETS)}"
                document.add((*at, name, "targets", index), what)
        if device.like is not None and (what := _bad_base(name, known)):
            document.add((*at, name, "like"), what)
        if device.like is None and device.targets is None:
            document.add((*at, name), "says neither 'targets' nor what it is 'like'")


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
