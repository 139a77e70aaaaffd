"""Files that a config names by url and digest: brought into the cache, resumed, and verified.

`downloads/<sha256>/<name>` in the cache is a whole file of that digest; beside it,
`<name>.part` is what has arrived so far.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from crosscast.pipeline.config.fields import Download
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.staging import locked
from crosscast.pipeline.store import Store

if TYPE_CHECKING:
    import httpx

TRIES = 5
REDIRECTS = 5
TIMEOUT = 30.0
"""Seconds without a byte after which a try is over."""

LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the server asks for."""

TELL_EVERY = 5.0
"""Seconds between two messages on one file."""

RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))
MIB = 2**20

Tell = Callable[[str], None]


def missing(downloads: Iterable[Download], *, store: Store) -> list[Download]:
    """Those that are not in the cache, or no longer as they came."""
    return [entry for entry in downloads if store.file_digest(entry.path) != entry.sha256]


def fetch(
    download: Download,
    *,
    store: Store,
    tell: Tell,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Have the file at `download.path`.

    Raises StageError where it cannot be had: it says why, and what to do.
    """
    path = download.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f"{path.name}.lock")):
            if not missing([download], store=store):
                return  # another build has fetched it meanwhile
            _fetch(download, path.with_name(f"{path.name}.part"), tell, sleep)
    except OSError as error:
        raise _unwritable(download, error) from error


def _fetch(download: Download, part: Path, tell: Tell, sleep: Callable[[float], None]) -> None:
    """Fetch, check and put in place; once more from the start where what was there is not it."""
    resumed = part.exists()
    if urlsplit(download.url).scheme == "file":
        resumed = False
        _copy(download, part, tell)
    else:
        _download(download, part, tell, sleep)
    found = file_sha256(part)
    if found == download.sha256:
        os.replace(part, download.path)  # noqa: PTH105 - over a damaged one
        return
    part.unlink()
    if resumed:
        _fetch(download, part, tell, sleep)
        return
    raise StageError(
        f"{shown(download.url)} is another file than the config means: its sha256 is {found}, not "
        f"{download.sha256}",
        fix="check the url; if the file was replaced on purpose, look at it and set its sha256",
    )


def _copy(download: Download, part: Path, tell: Tell) -> None:
    source = Path(url2pathname(urlsplit(download.url).path))
    if not source.is_file():
        raise StageError(f"{shown(download.url)}: no such file", fix="correct the url")
    tell(f"copying {source}")
    try:
        with source.open("rb") as given, part.open("wb") as taken:
            shutil.copyfileobj(given, taken, MIB)
    except PermissionError as error:
        raise StageError(
            f"{source} cannot be read: {error.strerror}", fix="check its permissions"
        ) from error


def _download(download: Download, part: Path, tell: Tell, sleep: Callable[[float], None]) -> None:
    """Bring all bytes into `part`, in as many tries as it may take."""
    import httpx

    wait, reason = 0.0, ""
    with httpx.Client(
        follow_redirects=True,
        max_redirects=REDIRECTS,
        timeout=TIMEOUT,
        headers={"User-Agent": "crosscast", "Accept-Encoding": "identity"},
    ) as client:
        for attempt in range(TRIES):
            sleep(wait)
            try:
                wait, reason = _attempt(client, download, part, tell)
            except httpx.TooManyRedirects as error:
                raise _failed(download, f"it redirects more than {REDIRECTS} times") from error
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise _failed(download, f"the url cannot be used: {error}") from error
            except httpx.HTTPError as error:
                wait, reason = 0.0, _said(error)
            if not reason:
                return
            wait = min(wait or 0.5 * 2**attempt, LONGEST_WAIT)
            tell(f"fetching {shown(download.url)} goes on after: {reason}")
    raise _failed(download, f"{reason} ({TRIES} tries)")


def _attempt(client: httpx.Client, download: Download, part: Path, tell: Tell) -> tuple[float, str]:
    """One request for what is missing yet; how long to wait, and why it has to be tried again.

    ("" where all has arrived.)
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", download.url, headers=headers) as response:
        code = response.status_code
        if code == 416:  # there is nothing after what has arrived: the digest will tell
            return 0.0, ""
        if code in RETRIED:
            return _retry_after(response), f"the server answered {code} {response.reason_phrase}"
        if code not in (200, 206):
            raise _failed(download, f"the server answered {code} {response.reason_phrase}")
        follows = code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        if code == 206 and not follows:
            part.unlink(missing_ok=True)
            return 0.0, "the server sent another part than was asked for"
        with part.open("ab" if follows else "wb") as taken:
            for chunk in _told(response, download, have if follows else 0, tell):
                taken.write(chunk)
    return 0.0, ""


def _told(response: httpx.Response, download: Download, have: int, tell: Tell) -> Iterator[bytes]:
    """The bytes of an answer, with word of them from time to time."""
    length = int(response.headers.get("Content-Length", 0))
    whole = f" of {(have + length) / MIB:.1f}" if length else ""
    last = 0.0
    for chunk in response.iter_bytes():
        if time.monotonic() - last >= TELL_EVERY:
            last = time.monotonic()
            tell(f"fetching {shown(download.url)}: {have / MIB:.1f}{whole} MiB")
        have += len(chunk)
        yield chunk


def _retry_after(response: Any) -> float:
    """The seconds that the server asks for; 0 where it asks for none, or gives a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def shown(url: str) -> str:
    """The url for people: without name, password and query, which may be secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{unquote(parts.path)}"


def _said(error: httpx.HTTPError) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {TIMEOUT:g} seconds"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the connection broke off"
    return str(error) or type(error).__name__


def _failed(download: Download, why: str) -> StageError:
    return StageError(
        f"{shown(download.url)} cannot be fetched: {why}",
        fix="check the url and the network; what has arrived is kept, and the next build goes on "
        "from there",
    )


def _unwritable(download: Download, error: OSError) -> StageError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StageError(
        f"{shown(download.url)} cannot be kept in {download.path.parent}: "
        f"{'no space left on the disk' if full else error.strerror}",
        fix="free some space, or set CROSSCAST_CACHE to another disk"
        if full
        else "check the cache's permissions, or set CROSSCAST_CACHE",
    )
