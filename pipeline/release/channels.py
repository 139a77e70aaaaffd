"""`index.json`: the versions of a model, and its channels with all they ever named.

    {"schema": 1,
     "versions": {"1.0.0": {"digest": "…"}},
     "channels": {"stable": [{"version": "1.0.0", "at": "2026-01-01T00:00:00Z"}]}}

The last entry of a channel is what it names now. Entries are only ever added; one that a rollback
has added says so.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from semver import Version

from crosscast.pipeline.config.names import CHANNEL, SEMVER, did_you_mean
from crosscast.pipeline.errors import ConfigError, GateError, RegistryError
from crosscast.pipeline.release.registries.base import Conflict, Registry

SCHEMA = 1
TRIES = 12
"""Of writing an index that others write at the same time."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """A version that a channel was made to name. at: UTC, ISO 8601. back: by a rollback."""

    version: str
    at: str
    back: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        told = {"version": self.version, "at": self.at}
        return {**told, "back": True} if self.back else told


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """What is there of a model: digests of its releases by version, histories by channel."""

    versions: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, tuple[Naming, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes, *, model: str) -> Self:
        """What an `index.json` tells; empty of no bytes. Raises RegistryError."""
        try:
            told: dict[str, Any] = json.loads(content) if content else {"schema": SCHEMA}
            if told["schema"] != SCHEMA:
                raise ValueError(f"schema {told['schema']}")
            versions = {_semver(v): str(e["digest"]) for v, e in told.get("versions", {}).items()}
            channels = {
                _channel(name): tuple(
                    Naming(
                        version=_semver(entry["version"]),
                        at=str(entry["at"]),
                        back=bool(entry.get("back")),
                    )
                    for entry in history
                )
                for name, history in told.get("channels", {}).items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise RegistryError(
                f"the index of {model} cannot be used: {' '.join(str(error).split())[:200]}",
                fix="restore its index.json, or use the crosscast that wrote it",
            ) from None
        return cls(versions=versions, channels=channels)

    def to_json(self) -> dict[str, Any]:
        """What `index.json` holds."""
        return {
            "schema": SCHEMA,
            "versions": {version: {"digest": self.versions[version]} for version in self.ordered()},
            "channels": {
                name: [naming.to_json() for naming in history]
                for name, history in sorted(self.channels.items())
            },
        }

    def ordered(self) -> list[str]:
        """All versions, lowest first."""
        return sorted(self.versions, key=lambda version: (Version.parse(version), version))

    def present(self, channel: str) -> str | None:
        """The version that a channel names now."""
        history = self.channels.get(channel, ())
        return history[-1].version if history else None

    def resolve(self, name: str, *, model: str) -> str:
        """The version that a version or a channel names. Raises RegistryError."""
        version = name if name in self.versions else self.present(name)
        if not self.versions:
            raise RegistryError(
                f"there is no release of {model}",
                fix="release it first, or name the registry that has it",
            )
        if version is None:
            known = [*self.channels, *self.ordered()]
            raise RegistryError(
                f"{model} has no {'version' if name[:1].isdigit() else 'channel'} '{name}'"
                f"{did_you_mean(name, known)}",
                fix=f"there are {', '.join(known)}",
            )
        return version

    def add(self, version: str, digest: str) -> Self:
        """With one more release. Raises GateError where the version has another digest."""
        if self.versions.get(version, digest) != digest:
            raise GateError(
                f"{version} is in the index with the digest {self.versions[version][:12]}, this "
                f"release has {digest[:12]}",
                fix="a version never changes: release under another one (--bump patch)",
            )
        return replace(self, versions={**self.versions, version: digest})

    def promote(self, channel: str, version: str, *, back: bool = False) -> Self:
        """With the channel naming that version."""
        if self.present(channel) == version:
            return self
        naming = Naming(version=version, at=now(), back=back)
        history = (*self.channels.get(channel, ()), naming)
        return replace(self, channels={**self.channels, channel: history})

    def previous(self, channel: str) -> str | None:
        """What the channel named before what it names now, as if nothing had been rolled back."""
        stack: list[str] = []
        for naming in self.channels.get(channel, ()):
            if naming.back and stack:
                stack.pop()
            else:
                stack.append(naming.version)
        return stack[-2] if len(stack) > 1 else None


def read(registry: Registry, model: str) -> Shelf:
    """What the registry has of a model; empty where it has none of it."""
    return Shelf.parse(registry.index(model=model).content, model=model)


def update(registry: Registry, model: str, change: Callable[[Shelf], Shelf]) -> Shelf:
    """Change a model's index, from what others have made of it meanwhile; gives the new one.

    Raises RegistryError where others write all the time.
    """
    for attempt in range(TRIES):
        index = registry.index(model=model)
        before = Shelf.parse(index.content, model=model)
        after = change(before)
        if after == before:
            return after
        content = json.dumps(after.to_json(), indent=2, ensure_ascii=False) + "\n"
        try:
            registry.write_index(model=model, content=content.encode(), token=index.token)
        except Conflict:
            # Twice as long each time, and never in step with the others.
            time.sleep(random.uniform(0, min(0.01 * 2**attempt, 2)))
            continue
        return after
    raise RegistryError(
        f"the index of {model} is written by others all the time", fix="try again later"
    )


def promote(registry: Registry, *, model: str, name: str, channel: str) -> tuple[str, str | None]:
    """Have a channel name a version (or what another channel names).

    Gives the version, and what the channel named before. Raises ConfigError, RegistryError.
    """
    if not re.fullmatch(CHANNEL, channel):
        raise ConfigError(
            f"'{channel}' is no name of a channel",
            fix="it has lower-case letters, digits, '.', '_' and '-', a letter first",
        )
    before: list[str | None] = []

    def change(shelf: Shelf) -> Shelf:
        before.append(shelf.present(channel))
        return shelf.promote(channel, shelf.resolve(name, model=model))

    after = update(registry, model, change)
    return str(after.present(channel)), before[-1]


def rollback(registry: Registry, *, model: str, channel: str) -> tuple[str, str]:
    """Have a channel name what it named before; gives that version and the one it named.

    Raises RegistryError where there is no such channel, ConfigError where it named nothing before.
    """
    left: list[str] = []

    def change(shelf: Shelf) -> Shelf:
        if channel not in shelf.channels:
            raise RegistryError(
                f"{model} has no channel '{channel}'{did_you_mean(channel, shelf.channels)}",
                fix=f"`crosscast promote {model}@VERSION {channel}` makes it",
            )
        version = shelf.previous(channel)
        left.append(str(shelf.present(channel)))
        if version is None:
            raise ConfigError(
                f"'{channel}' of {model} named nothing before {left[-1]}",
                fix=f"choose a version: `crosscast promote {model}@VERSION {channel}`",
            )
        return shelf.promote(channel, version, back=True)

    return str(update(registry, model, change).present(channel)), left[-1]


def describe(shelf: Shelf, *, model: str) -> str:
    """The versions, highest first, with the channels that name them; then every history."""
    named = {name: shelf.present(name) for name in sorted(shelf.channels)}
    lines = [
        "  ".join([version, *(name for name in named if named[name] == version)])
        for version in reversed(shelf.ordered())
    ]
    for name in named:
        told = [
            f"{it.version} at {it.at}{' (rolled back)' if it.back else ''}"
            for it in shelf.channels[name]
        ]
        lines.append(f"{name}: {', '.join(told)}")
    return "\n".join(lines) or f"no release of {model}"


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _semver(text: str) -> str:
    if not re.fullmatch(SEMVER, text):
        raise ValueError(f"'{text}' is no version")
    return text


def _channel(text: str) -> str:
    if not re.fullmatch(CHANNEL, text):
        raise ValueError(f"'{text}' is no channel")
    return text
