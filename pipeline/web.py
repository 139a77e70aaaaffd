"""Requests over HTTP: what is tried again, and after how long; how a failure reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import httpx

TRIES = 5
REDIRECTS = 5
TIMEOUT = 30.0
"""Seconds without a byte after which a try is over."""

FIRST_WAIT = 0.5
"""Seconds before the second try; twice as many before each further one."""

LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the server asks for."""

RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))

T = TypeVar("T")
Sleep = Callable[[float], None]


class Transient(Exception):
    """What may go well at the next try.

    wait: the seconds that the server asks for; 0 where it asks for none.
    """

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Refused(Exception):
    """What no other try would change. code: the answer's status; 0 where there was none."""

    def __init__(self, reason: str, *, code: int = 0) -> None:
        super().__init__(reason)
        self.code = code


def client(**given: Any) -> httpx.Client:
    """A client that follows redirects, some, and takes files as they are."""
    import httpx

    return httpx.Client(
        follow_redirects=True,
        max_redirects=REDIRECTS,
        timeout=TIMEOUT,
        headers={"User-Agent": "crosscast", "Accept-Encoding": "identity"},
        **given,
    )


def retried(
    attempt: Callable[[], T], *, tell: Callable[[str], None] | None = None, sleep: Sleep
) -> T:
    """What `attempt` gives, in as many tries as it may take; raises the last one's Transient.

    tell: is given the reason of each further try.
    """
    for number in range(TRIES - 1):
        try:
            return attempt()
        except Transient as error:
            if tell is not None:
                tell(str(error))
            sleep(min(error.wait or FIRST_WAIT * 2**number, LONGEST_WAIT))
    return attempt()


@contextmanager
def answered(
    client: httpx.Client, method: str, url: str, *, expected: tuple[int, ...], **given: Any
) -> Iterator[httpx.Response]:
    """The answer to a request, its body still to be read. given: as for httpx.

    Raises Transient, also where the connection breaks off while the body is read, and Refused.
    """
    import httpx

    try:
        with client.stream(method, url, **given) as response:
            _check(response, expected)
            yield response
    except httpx.TooManyRedirects as error:
        raise Refused(f"it redirects more than {REDIRECTS} times") from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise Refused(f"the url cannot be used: {error}") from error
    except httpx.HTTPError as error:
        raise Transient(_said(error)) from error


@contextmanager
def download(
    client: httpx.Client, url: str, *, start: int, **given: Any
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The bytes of a file from `start` on, and how many it has in all (0: the server does not say).

    A server that knows no ranges sends all; what comes before `start` is then passed over.
    """
    headers = {"Range": f"bytes={start}-"} if start else {}
    with answered(
        client, "GET", url, expected=(200, 206, 416), headers=headers, **given
    ) as response:
        length = int(response.headers.get("Content-Length", 0))
        if response.status_code == 416:  # there is nothing from there on
            yield start, iter(())
        elif response.status_code == 200:
            yield length, _after(start, response.iter_bytes())
        elif response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            yield start + length if length else 0, response.iter_bytes()
        else:
            raise Transient("the server sent another part than was asked for")


def shown(url: str) -> str:
    """The url for people: without name, password and query, which may be secrets. A path is shown
    as it is.
    """
    if "://" not in url:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{unquote(parts.path)}"


def _check(response: httpx.Response, expected: tuple[int, ...]) -> None:
    code = response.status_code
    said = f"the server answered {code} {response.reason_phrase}"
    if code in RETRIED:
        value = response.headers.get("Retry-After", "")
        raise Transient(said, wait=float(value) if value.isdigit() else 0.0)
    if code not in expected:
        raise Refused(said, code=code)


def _after(start: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) > start:
            yield chunk[start:]
        start = max(0, start - len(chunk))


def _said(error: httpx.HTTPError) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {TIMEOUT:g} seconds"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the connection broke off"
    return str(error) or type(error).__name__
