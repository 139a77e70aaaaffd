"""Where releases live: a directory, HTTP, S3, an OCI registry. One file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.release.registries.base import Registry
from crosscast.pipeline.web import shown


def _directory(url: str) -> Registry:
    from crosscast.pipeline.release.registries.directory import Directory

    parts = urlsplit(url)
    return Directory(Path(unquote(parts.path) if parts.scheme == "file" else url))


def _http(url: str) -> Registry:
    from crosscast.pipeline.release.registries.http import Http

    return Http(url)


def _s3(url: str) -> Registry:
    from crosscast.pipeline.release.registries.s3 import S3

    return S3(url)


def _oci(url: str) -> Registry:
    from crosscast.pipeline.release.registries.oci import Oci

    return Oci(url)


REGISTRIES: Mapping[str, Callable[[str], Registry]] = {
    "": _directory,
    "file": _directory,
    "http": _http,
    "https": _http,
    "s3": _s3,
    "oci": _oci,
}
"""How to open a registry, by the scheme of its url; a path has none."""


READ_ONLY = ("http", "https")


def open_registry(url: str, *, to_publish: bool = False) -> Registry:
    """The registry at a url or path. Raises ConfigError where there is none of that scheme, or
    none that can be published to.
    """
    scheme, mark, _ = url.partition("://")
    scheme = scheme if mark else ""
    if scheme not in REGISTRIES:
        raise ConfigError(
            f"no registry is reached by {scheme}://",
            fix=f"give a directory, or a url that begins with "
            f"{', '.join(f'{name}://' for name in REGISTRIES if name)}",
        )
    if to_publish and scheme in READ_ONLY:
        raise ConfigError(
            f"{shown(url)}: a web server's registry is only read",
            fix="publish to the directory that it serves",
        )
    return REGISTRIES[scheme](url)
