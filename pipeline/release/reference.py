"""`REGISTRY/MODEL@VERSION`: how people name a release."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crosscast.pipeline.config.names import SLUG
from crosscast.pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Reference:
    """registry: path or url; empty where none is named. name: a version or a channel; empty for
    the highest version.
    """

    registry: str
    model: str
    name: str


def parse(text: str) -> Reference:
    """The parts of `[REGISTRY/]MODEL[@VERSION|@CHANNEL]`. Raises ConfigError."""
    registry, _, rest = text.rpartition("/")
    model, mark, name = rest.partition("@")
    if not re.fullmatch(SLUG, model) or (mark and not name) or registry.endswith("/"):
        raise ConfigError(
            f"'{text}' names no release",
            fix="write [REGISTRY/]MODEL[@VERSION], such as artifacts/efficientnet-lite0@stable",
        )
    return Reference(registry=registry, model=model, name=name)
