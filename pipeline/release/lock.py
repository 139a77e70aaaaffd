"""A lock file: the exact bytes that an app's build pulls, whatever a channel names by now."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from crosscast.pipeline import staging
from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.manifest import json_bytes
from crosscast.pipeline.release.document import Release

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What was pulled. registry: without secrets. digest: the release's; files: by path, sha256."""

    registry: str
    model: str
    version: str
    digest: str
    target: str
    files: dict[str, str]

    @classmethod
    def of(cls, release: Release, target: str, *, registry: str) -> Self:
        """The lock of a target of a release."""
        return cls(
            registry=registry,
            model=release.model,
            version=release.version,
            digest=release.digest,
            target=target,
            files={entry.path: entry.sha256 for entry in release.entries(target)},
        )

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The lock in a file; None where there is no file. Raises ConfigError."""
        try:
            told: dict[str, Any] = json.loads(path.read_bytes())
            if told.pop("schema") != SCHEMA:
                raise ValueError("it has another schema")
            lock = cls(**told)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: no lock file that can be used: {error}",
                fix="restore it, or remove it to lock what is pulled now",
            ) from None
        return lock

    def write(self, path: Path) -> None:
        """Write the file, at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        staging.replace_file(path, json_bytes({"schema": SCHEMA, **asdict(self)}))

    def check(self, other: Lock, *, path: Path) -> None:
        """Raise RegistryError where another thing is to be pulled than was locked."""
        mine, theirs = asdict(self), asdict(other)
        for key in (key for key in mine if mine[key] != theirs[key]):
            told = "other files" if key == "files" else f"{key} {theirs[key]}, not {mine[key]}"
            raise RegistryError(
                f"{path} is on something else: this is {told}",
                fix=f"if that is what you want, remove {path} and pull again",
            )
