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
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from crosscast.pipeline import web
from crosscast.pipeline.config.fields import Download
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.staging import locked
from crosscast.pipeline.store import Store
from crosscast.pipeline.web import shown

if TYPE_CHECKING:
    import httpx

TELL_EVERY = 5.0
"""Seconds between two messages on one file."""

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
    with web.client() as client:
        try:
            web.retried(
                lambda: _attempt(client, download, part, tell),
                tell=lambda why: tell(f"fetching {shown(download.url)} goes on after: {why}"),
                sleep=sleep,
            )
        except web.Refused as error:
            raise _failed(download, str(error)) from error
        except web.Transient as error:
            raise _failed(download, f"{error} ({web.TRIES} tries)") from error


def _attempt(client: httpx.Client, download: Download, part: Path, tell: Tell) -> None:
    """One request for what is missing yet."""
    have = part.stat().st_size if part.exists() else 0
    with (
        web.download(client, download.url, start=have) as (total, chunks),
        part.open("ab") as taken,
    ):
        for chunk in _told(chunks, download, have, total, tell):
            taken.write(chunk)


def _told(
    chunks: Iterator[bytes], download: Download, have: int, total: int, tell: Tell
) -> Iterator[bytes]:
    """The chunks, with word of them from time to time."""
    whole = f" of {total / MIB:.1f}" if total else ""
    last = 0.0
    for chunk in chunks:
        if time.monotonic() - last >= TELL_EVERY:
            last = time.monotonic()
            tell(f"fetching {shown(download.url)}: {have / MIB:.1f}{whole} MiB")
        have += len(chunk)
        yield chunk


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
