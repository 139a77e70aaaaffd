"""A registry behind any static web server: a directory registry that it serves. Only read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from crosscast.pipeline import web
from crosscast.pipeline.errors import RegistryError
from crosscast.pipeline.release.document import Entry, Release
from crosscast.pipeline.release.registries.base import INDEX, Index
from crosscast.pipeline.release.registries.requests import Requests

if TYPE_CHECKING:
    import httpx

CREDENTIALS = (
    "put name and password of the host into ~/.netrc (or the file that NETRC names), or renew them"
)


class Http:
    """See `base.Registry`."""

    def __init__(self, url: str, *, sleep: web.Sleep = time.sleep) -> None:
        self._url = url.rstrip("/")
        self._requests = Requests(
            web.client(auth=_netrc()), url=self._url, credentials=CREDENTIALS, sleep=sleep
        )

    def index(self, *, model: str) -> Index:
        """The model's index."""
        return Index(content=self._get(model, INDEX) or b"")

    def document(self, *, model: str, version: str, name: str) -> bytes | None:
        """A document of a release."""
        return self._get(model, version, name)

    def open(
        self, *, model: str, version: str, entry: Entry, start: int = 0
    ) -> AbstractContextManager[Iterator[bytes]]:
        """A file's bytes."""
        return self._requests.pieces(self._at(model, version, entry.path), start=start)

    def write_index(self, *, model: str, content: bytes, token: str) -> None:  # noqa: ARG002
        """Refused."""
        raise self._read_only()

    def publish(self, *, folder: Path, release: Release) -> None:  # noqa: ARG002
        """Refused."""
        raise self._read_only()

    def _at(self, *parts: str) -> str:
        return "/".join((self._url, *map(quote, parts)))

    def _get(self, *parts: str) -> bytes | None:
        answer = self._requests.send("GET", self._at(*parts), expected=(200, 404))
        return answer.body if answer.code == 200 else None

    def _read_only(self) -> RegistryError:
        return RegistryError(
            f"{self._requests.shown}: a web server's registry is only read",
            fix="publish to the directory that it serves",
        )


def _netrc() -> httpx.Auth | None:
    """Names and passwords of hosts from the user's file, as curl reads it; None without one."""
    import netrc
    import os

    import httpx

    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return httpx.NetRCAuth(str(path)) if path.is_file() else None
    except (netrc.NetrcParseError, OSError) as error:
        raise RegistryError(f"{path}: cannot be read: {error}", fix="mend the file") from error
