"""The keys of a device's profile: in a config, or in a file of devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from crosscast.pipeline.config.document import Document, Loc
from crosscast.pipeline.config.fields import Model
from crosscast.pipeline.config.names import did_you_mean
from crosscast.pipeline.config.profiles import Written

CoreMl = Literal["iOS15", "iOS16", "iOS17", "iOS18"]


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


class Profile(Model):
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

    devices: dict[str, Profile] = Field(description="Devices by name.")


def written(profiles: Mapping[str, Profile]) -> dict[str, Written]:
    """What was written of profiles, JSON-able."""
    return {
        name: profile.model_dump(mode="json", exclude_unset=True)
        for name, profile in profiles.items()
    }


def check(
    document: Document, at: Loc, own: Mapping[str, Written], known: Mapping[str, Written]
) -> None:
    """Note what is wrong with profiles that stand in a document at a place; `known` are those that
    they may be like, themselves included.
    """
    from crosscast.targets import TARGETS

    for name, profile in own.items():
        targets, like = profile.get("targets"), profile.get("like")
        for index, target in enumerate(targets or ()):
            if target not in TARGETS:
                what = f"there is no target '{target}'{did_you_mean(target, TARGETS)}"
                document.add((*at, name, "targets", index), what)
        if like is not None and (what := _bad_base(name, known)):
            document.add((*at, name, "like"), what)
        if like is None and targets is None:
            document.add((*at, name), "says neither 'targets' nor what it is 'like'")


def _bad_base(name: str, known: Mapping[str, Written]) -> str:
    """What is wrong with what a device is like; empty where nothing is."""
    seen, now = [name], known[name]["like"]
    while now is not None:
        if now in seen:
            return f"goes in a circle: {' -> '.join((*seen, now))}"
        if now not in known:
            return f"there is no device '{now}'{did_you_mean(now, known)}"
        seen.append(now)
        now = known[now].get("like")
    return ""
