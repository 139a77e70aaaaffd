"""A registry in a bucket of S3, or of what speaks its protocol: the layout of a directory registry.

An object appears whole or not at all; `index.json` and `release.json` are written on condition
(If-Match, If-None-Match).
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crosscast.pipeline import web
from crosscast.pipeline.errors import ConfigError, GateError, RegistryError, ToolchainError
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Entry, Release
from crosscast.pipeline.release.registries.base import (
    DAMAGED,
    INDEX,
    LARGEST,
    Conflict,
    Index,
    check_same,
)

if TYPE_CHECKING:
    from obstore.store import S3Store

CHUNK = 1 << 20
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN), or AWS_PROFILE of "
    "~/.aws/credentials"
)

EXPIRED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
"""Codes of a session that is over, whose status is 400, as of any other mistake.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

CLAIM = "publishing"
"""Beside `release.json`, while a version is uploaded: the digest of the release that it is to be.
Two publishers of other bytes would else mix their files."""

STALE = timedelta(hours=1)
"""Age at which a claim is taken to be of a publisher that was killed."""


class S3:
    """See `base.Registry`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._store = _store(self._url)

    def index(self, *, model: str) -> Index:
        """The model's index; its token is the object's ETag."""
        found = self._get(f"{model}/{INDEX}")
        return Index() if found is None else Index(content=found[0], token=found[1])

    def write_index(self, *, model: str, content: bytes, token: str) -> None:
        """Replace the index on condition."""
        if not self._put(f"{model}/{INDEX}", content, token=token):
            raise Conflict

    def document(self, *, model: str, version: str, name: str) -> bytes | None:
        """A document of a release."""
        found = self._get(f"{model}/{version}/{name}")
        return None if found is None else found[0]

    @contextmanager
    def open(
        self, *, model: str, version: str, entry: Entry, start: int = 0
    ) -> Iterator[Iterator[bytes]]:
        """A file's bytes."""
        yield self._pieces(f"{model}/{version}/{entry.path}", start, entry.size)

    def _pieces(self, key: str, start: int, size: int) -> Iterator[bytes]:
        """An object from there on. Explains failures of reading, not of what is done with it."""
        import obstore

        if start >= size:  # S3 answers 416 to a range that is empty
            return
        with self._errors(transient=True):
            found = obstore.get(self._store, key, options={"range": {"offset": start}})
            yield from map(bytes, found.stream(min_chunk_size=CHUNK))

    def publish(self, *, folder: Path, release: Release) -> None:
        """Upload a release's directory."""
        claim = f"{release.model}/{release.version}/{CLAIM}"
        if self._published(release):
            return
        self._claim(claim, release)
        try:
            # Again: who had the claim before has given it up when all of theirs was there.
            if not self._published(release):
                self._upload_all(folder, release)
        except GateError:
            self._delete(claim)
            raise
        self._delete(claim)

    def _upload_all(self, folder: Path, release: Release) -> None:
        """Write the files of a release, its document last."""
        base = f"{release.model}/{release.version}"
        for entry in release.entries():
            self._upload(folder / entry.path, f"{base}/{entry.path}", entry.sha256)
        if (folder / SIGNATURE).exists():
            self._put(f"{base}/{SIGNATURE}", (folder / SIGNATURE).read_bytes())
        if not self._put(f"{base}/{RELEASE}", (folder / RELEASE).read_bytes(), token=""):
            self._published(release)  # somebody was quicker; if with other bytes, it raises

    def _published(self, release: Release) -> bool:
        """Whether the release is there; raises GateError where another is in its place."""
        found = self.document(model=release.model, version=release.version, name=RELEASE)
        if found is None:
            return False
        check_same(release, found, where=self._url)
        return True

    def _claim(self, key: str, release: Release) -> None:
        """See CLAIM."""
        import obstore

        if self._put(key, release.digest.encode(), token=""):
            return
        found = self._get(key)
        if found is None:  # given up meanwhile
            self._claim(key, release)
            return
        if found[0].decode(errors="replace") == release.digest:
            return  # of one that was killed, or uploads the same
        with self._errors():
            made = obstore.head(self._store, key)["last_modified"]
        if datetime.now(UTC) - made > STALE and self._put(
            key, release.digest.encode(), token=found[1]
        ):
            return
        raise GateError(
            f"{self._url}: {release.model} {release.version} is being published with other bytes "
            f"since {made:%H:%M} UTC",
            fix="wait for the other publisher; if it was killed, remove "
            f"{key} or try again {STALE} after it began",
        )

    def _get(self, key: str) -> tuple[bytes, str] | None:
        """An object of a few megabytes, and its ETag; None where there is none."""
        import obstore

        with self._errors():
            try:
                found = obstore.get(self._store, key)
                if found.meta["size"] > LARGEST:
                    raise RegistryError(
                        f"{self._url}/{key} is larger than {LARGEST >> 20} MiB; no index or release"
                        " is",
                        fix="check the registry's url",
                    )
                return bytes(found.bytes()), found.meta["e_tag"] or ""
            except FileNotFoundError as error:
                if "<Code>NoSuchBucket<" in str(error):
                    raise RegistryError(
                        f"{self._url}: there is no such bucket", fix="correct its name, or make it"
                    ) from None
                return None

    def _put(self, key: str, content: bytes, *, token: str | None = None) -> bool:
        """Write a small object; False where it is not that of `token` ("": it is there)."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "overwrite" if token is None else {"e_tag": token} if token else "create"
        with self._errors():
            try:
                obstore.put(self._store, key, content, mode=mode)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return False
        return True

    def _upload(self, file: Path, key: str, sha256: str) -> None:
        """Write a file's bytes, unless the object has them already."""
        import obstore

        with self._errors():
            try:
                found = obstore.get(self._store, key, options={"head": True})
                if found.attributes.get("sha256") == sha256:
                    return
            except FileNotFoundError:
                pass
            obstore.put(self._store, key, file, attributes={"sha256": sha256})

    def _delete(self, key: str) -> None:
        import obstore

        with self._errors():
            obstore.delete(self._store, key)

    @contextmanager
    def _errors(self, *, transient: bool = False) -> Iterator[None]:
        """The library's errors as ours; transient: whether the rest is worth another try."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._refused(error) from None
        except FileNotFoundError as error:
            raise RegistryError(f"{self._url}: {_said(error)}", fix=DAMAGED) from None
        except BaseError as error:
            if _code(error) in EXPIRED:
                raise self._refused(error) from None
            if transient:
                raise web.Transient(_said(error)) from None
            raise RegistryError(
                f"{self._url}: {_said(error)}",
                fix="check the network, AWS_REGION and AWS_ENDPOINT_URL; then try again",
            ) from None

    def _refused(self, error: Exception) -> RegistryError:
        return RegistryError(
            f"{self._url}: {_said(error)}: credentials are missing, wrong, expired or do not "
            "allow this",
            fix=CREDENTIALS,
        )


def _store(url: str) -> S3Store:
    """The bucket and prefix of a url, with what AWS_* variables and ~/.aws/credentials tell."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError:
        raise ToolchainError(
            f"{url}: a registry in S3 needs obstore, which is not installed",
            fix="pip install 'crosscast[s3]'",
        ) from None
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigError(f"{url}: names no bucket", fix="write s3://bucket/prefix")
    try:
        return S3Store(
            parts.hostname,
            prefix=parts.path.strip("/") or None,
            client_options={
                "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                "connect_timeout": timedelta(seconds=web.TIMEOUT),
                "read_timeout": timedelta(seconds=web.TIMEOUT),
                "timeout": timedelta(days=1),  # of a whole file: its own limit is 30 seconds
            },
            retry_config={
                "max_retries": web.TRIES - 1,
                "retry_timeout": timedelta(seconds=web.LONGEST_WAIT),
                "backoff": {  # the library does not read Retry-After
                    "init_backoff": timedelta(seconds=web.FIRST_WAIT),
                    "max_backoff": timedelta(seconds=web.LONGEST_WAIT),
                    "base": 2,
                },
            },
            **_profile(),
        )
    except BaseError as error:  # such as a key without its secret
        raise RegistryError(f"{url}: {_said(error)}", fix=CREDENTIALS) from None


def _profile() -> dict[str, Any]:
    """Keys from the file of profiles, where no variable gives them; the library reads none."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    place = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    path = Path(place).expanduser()
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {type(error).__name__}", fix="mend the file, or set AWS_*"
        ) from None
    name = os.environ.get("AWS_PROFILE", "default")
    section = parser[name] if parser.has_section(name) else {}
    wanted = {
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
        "region": "region",
    }
    return {ours: section[theirs] for ours, theirs in wanted.items() if theirs in section}


def _code(error: Exception) -> str:
    """S3's own name of what went wrong; "" where it gives none."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def _said(error: Exception) -> str:
    """What happened, of the library's pages of text."""
    line = str(error).splitlines()[0].partition(": <?xml")[0]
    code = _code(error)
    return line.rpartition(" - ")[2] + (f" ({code})" if code else "")
