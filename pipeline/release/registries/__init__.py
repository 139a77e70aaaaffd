"""Where releases live: a directory, HTTP, S3, an OCI registry. One file each."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.release.registries.base import Registry

REGISTRIES: Mapping[str, str] = {
    "http": "http:Http",
    "https": "http:Http",
    "s3": "s3:S3",
    "oci": "oci:Oci",
}
"""By the scheme of a url: the module, imported when it is used, and its class."""


def open_registry(url: str) -> Registry:
    """The registry at a url.

    Raises ConfigError where there is no such kind, or the url cannot be one.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in REGISTRIES:
        raise ConfigError(
            f"{url}: no registry is reached by '{scheme}://'",
            fix="use a directory, or " + ", ".join(f"{known}://" for known in REGISTRIES if known),
        )
    module, _, name = REGISTRIES[scheme].partition(":")
    registry: Registry = getattr(import_module(f"{__name__}.{module}"), name)(url)
    return registry
