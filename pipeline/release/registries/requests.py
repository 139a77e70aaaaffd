"""What the registries that are asked over HTTP share: tries, limits, and errors for people."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from crosscast.pipeline import web
from crosscast.pipeline.errors import RegistryError
from crosscast.pipeline.release.registries.base import LARGEST

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that was read to its end. headers: by name, in any case."""

    code: int
    headers: Mapping[str, str]
    body: bytes


class Requests:
    """Requests to one registry.

    url: the registry, as people know it. credentials: what to do where it wants others.
    """

    def __init__(
        self, client: httpx.Client, *, url: str, credentials: str, sleep: web.Sleep = time.sleep
    ) -> None:
        self.client = client
        weakref.finalize(self, client.close)  # a registry is not closed, only let go
        self.shown = web.shown(url)
        self.credentials = credentials
        self.sleep = sleep

    def send(self, method: str, url: str, *, expected: tuple[int, ...], **given: Any) -> Answer:
        """The answer to a request, in several tries; see `once`."""
        return self.retried(lambda: self.once(method, url, expected=expected, **given))

    def once(self, method: str, url: str, *, expected: tuple[int, ...], **given: Any) -> Answer:
        """The answer to a request, with a body of a few megabytes at most; see `web.answered`."""
        with web.answered(self.client, method, url, expected=expected, **given) as response:
            body = self._read(response)
            return Answer(code=response.status_code, headers=response.headers, body=body)

    def retried(self, attempt: Callable[[], T]) -> T:
        """What `attempt` gives, in several tries; every failure is a RegistryError."""
        try:
            return web.retried(attempt, sleep=self.sleep)
        except web.Transient as error:
            raise RegistryError(
                f"{self.shown}: {error} ({web.TRIES} tries)",
                fix="check the network, and that the registry is up; then try again",
            ) from error
        except web.Refused as error:
            raise self.refused(error) from error

    @contextmanager
    def pieces(self, url: str, *, start: int) -> Iterator[Iterator[bytes]]:
        """The bytes of a large answer from `start` on; raises web.Transient."""
        try:
            with web.download(self.client, url, start=start) as (_, chunks):
                yield chunks
        except web.Refused as error:
            raise self.refused(error) from error

    def refused(self, error: web.Refused) -> RegistryError:
        """The error for people."""
        if error.code in (401, 403):
            return RegistryError(
                f"{self.shown}: {error}: credentials are missing, wrong, expired or do not allow "
                "this",
                fix=self.credentials,
            )
        return RegistryError(f"{self.shown}: {error}", fix="check the registry's url")

    def _read(self, response: httpx.Response) -> bytes:
        """The body, if it is no larger than such a thing can be."""
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > LARGEST:
                raise RegistryError(
                    f"{self.shown}: an answer is larger than {LARGEST >> 20} MiB; no index or "
                    "release is",
                    fix="check the registry's url",
                )
        return bytes(body)
