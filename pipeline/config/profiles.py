"""Profiles of devices: as they are written, and complete with what `like` brings.

Without the config's models, so that `pull` starts sooner: what others have written is checked by
those in `config.devices` before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = Path(__file__).parents[2] / "targets" / "devices.yaml"

Written = Mapping[str, Any]
"""A profile with the keys of `config.devices.Profile` that are given."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of device. targets: what it takes, best first. limits: what it cannot do, by the keys
    of `config.devices.DeviceLimits`; only those that it has.
    """

    summary: str = ""
    targets: tuple[str, ...] = ()
    limits: Mapping[str, Any]


def ours() -> dict[str, Written]:
    """The profiles that everybody has."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    profiles: dict[str, Written] = yaml.load(OURS.read_bytes(), Loader=loader)["devices"]
    return profiles


def complete(name: str, known: Mapping[str, Written]) -> Device:
    """The device of a profile; `known` has those that it is like."""
    told = known[name]
    like = told.get("like")
    base = complete(like, known) if like else Device(limits={})
    limits = {**base.limits, **told.get("limits", {})}
    return Device(
        summary=told.get("summary") or base.summary,
        targets=tuple(told.get("targets") or base.targets),
        limits={key: value for key, value in limits.items() if value},
    )
