"""A registry in an OCI registry: a repository for each model, a tag for each release.

Blobs go first, then the manifests, each with a tag of its own since some registries collect those
that have none, and the release's tag last. The index is under a tag too. OCI has no write on
condition: who writes a tag looks again when others that had looked before must have written.

https://github.com/opencontainers/distribution-spec
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from crosscast.pipeline import web
from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.release.document import RELEASE, SIGNATURE, Entry, Release
from crosscast.pipeline.release.registries import oci_documents as documents
from crosscast.pipeline.release.registries.base import (
    DAMAGED,
    INDEX,
    Conflict,
    Index,
    check_same,
)
from crosscast.pipeline.release.registries.oci_auth import CREDENTIALS, Auth, credentials
from crosscast.pipeline.release.registries.requests import Requests

INDEX_TAG = "index"
"""No version is called so."""

DOCUMENTS = "release"
"""Stands for a target in the tag of the manifest that holds `release.json`."""

PART = 64 << 20
"""Bytes of a file in one request; some registries refuse larger ones."""

SETTLED = 1.0
"""Seconds after which a tag is looked at again: others had that long between their look and their
write, two small requests. Lamport, "A fast mutual exclusion algorithm" (1987), has the argument,
of M. Fischer: of those who write within this time, all see the last one's.
"""

CHUNK = 1 << 20
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
ACCEPT = {"Accept": f"{documents.IMAGE_INDEX}, {documents.IMAGE_MANIFEST}"}


class Oci:
    """See `base.Registry`."""

    def __init__(self, url: str, *, sleep: web.Sleep = time.sleep) -> None:
        parts = urlsplit(url)
        host, base = parts.netloc, parts.path.strip("/")
        if not host or "@" in host or base != base.lower():
            raise ConfigError(
                f"{web.shown(url)}: no place in an OCI registry",
                fix="write oci://host/repository, in lower case and without name and password",
            )
        plain = host.rsplit(":", 1)[0] in LOOPBACK or host in LOOPBACK
        self._root = f"{'http' if plain else 'https'}://{host}/v2/{base + '/' if base else ''}"
        self._url = url.rstrip("/")
        auth = Auth(host, credentials(host))
        self._requests = Requests(
            web.client(auth=auth), url=url, credentials=CREDENTIALS, sleep=sleep
        )

    def index(self, *, model: str) -> Index:
        """The model's index; its token is the digest of the manifest that holds it."""
        manifest = self._manifest(model, INDEX_TAG)
        if manifest is None:
            return Index()
        return Index(content=self._layer(model, manifest, INDEX) or b"", token=_digest(manifest))

    def write_index(self, *, model: str, content: bytes, token: str) -> None:
        """Replace the index, if it is still the same just before, and stays the new one."""
        manifest = documents.index_manifest(INDEX, content)
        self._push(model, content)
        self._push(model, documents.EMPTY_CONFIG)
        if not self._take(model, INDEX_TAG, manifest, present=token):
            raise Conflict

    def document(self, *, model: str, version: str, name: str) -> bytes | None:
        """A document of a release."""
        index = self._manifest(model, _tag(version))
        if index is None:
            return None
        for entry in _entries(index, "manifests", self._requests.shown):
            if documents.DIGEST in entry.get("annotations", {}):
                manifest = self._manifest(model, entry["digest"])
                return None if manifest is None else self._layer(model, manifest, name)
        raise self._foreign(f"{model}:{_tag(version)} holds no {RELEASE}")

    def open(
        self,
        *,
        model: str,
        version: str,  # noqa: ARG002 - a blob is found by its digest
        entry: Entry,
        start: int = 0,
    ) -> AbstractContextManager[Iterator[bytes]]:
        """A file's bytes."""
        return self._requests.pieces(self._blob(model, f"sha256:{entry.sha256}"), start=start)

    def publish(self, *, folder: Path, release: Release) -> None:
        """Upload a release's directory."""
        model = release.model
        found = self.document(model=model, version=release.version, name=RELEASE)
        if found is not None:
            check_same(release, found, where=self._requests.shown)
            return
        texts = [name for name in (RELEASE, SIGNATURE) if (folder / name).exists()]
        held = {name: (folder / name).read_bytes() for name in texts}
        targets = {
            name: documents.model_manifest(release, name) for name in release.content["artifacts"]
        }
        manifests = {**targets, DOCUMENTS: documents.documents_manifest(release, held)}
        for entry in release.entries():
            self._push_file(model, folder / entry.path, f"sha256:{entry.sha256}")
        configs = [documents.model_config(release, name) for name in targets]
        for content in (*configs, *held.values(), documents.EMPTY_CONFIG):
            self._push(model, content)
        self._put_all(release, manifests)
        whole, tag = documents.release_index(release, manifests.values()), _tag(release.version)
        if self._take(model, tag, whole, present=""):
            self._put_all(release, manifests)  # others may have taken their tags meanwhile
        else:
            self.publish(folder=folder, release=release)  # somebody was quicker: is it the same?

    # Requests

    def _at(self, model: str, *parts: str) -> str:
        return "/".join((f"{self._root}{model}", *parts))

    def _blob(self, model: str, digest: str) -> str:
        return self._at(model, "blobs", digest)

    def _tagged(self, model: str, tag: str) -> str:
        """The digest of what a tag names; "" where there is none."""
        manifest = self._manifest(model, tag)
        return "" if manifest is None else _digest(manifest)

    def _manifest(self, model: str, reference: str) -> bytes | None:
        """A manifest or an index; None where there is none."""
        url = self._at(model, "manifests", reference)
        answer = self._requests.send("GET", url, expected=(200, 404), headers=ACCEPT)
        if answer.code == 404:
            return None
        if reference.startswith("sha256:") and _digest(answer.body) != reference:
            raise self._foreign(f"{model}@{reference} has another digest")
        return answer.body

    def _layer(self, model: str, manifest: bytes, name: str) -> bytes | None:
        """A small layer of a manifest; None where it has no such one."""
        for layer in _entries(manifest, "layers", self._requests.shown):
            if layer.get("annotations", {}).get(documents.FILEPATH) == name:
                url = self._blob(model, layer["digest"])
                content = self._requests.send("GET", url, expected=(200,)).body
                if _digest(content) != layer["digest"]:
                    raise self._foreign(f"{name} of {model} has another digest than its manifest")
                return content
        return None

    def _put(self, model: str, tag: str, manifest: documents.Manifest) -> None:
        """Write a tag, in one try."""
        url = self._at(model, "manifests", tag)
        headers = {"Content-Type": manifest.kind}
        self._requests.once("PUT", url, expected=(201,), content=manifest.content, headers=headers)

    def _put_all(self, release: Release, manifests: Mapping[str, documents.Manifest]) -> None:
        """Give the manifests of a release, by name, their tags, where they have not."""
        for name, manifest in manifests.items():
            tag = f"{_tag(release.version)}__{name}"
            if self._tagged(release.model, tag) != manifest.digest:
                self._requests.retried(partial(self._put, release.model, tag, manifest))

    def _take(self, model: str, tag: str, manifest: documents.Manifest, *, present: str) -> bool:
        """Have a tag that names the digest `present` name a manifest; whether it did, and still
        does when others have written what they will.
        """

        def attempt() -> bool:
            if self._tagged(model, tag) not in (present, manifest.digest):
                return False
            self._put(model, tag, manifest)
            return True

        if not self._requests.retried(attempt):
            return False
        self._requests.sleep(SETTLED)
        return self._tagged(model, tag) == manifest.digest

    def _push(self, model: str, content: bytes) -> None:
        """Upload a small blob, unless it is there."""
        digest = documents.digest(content)
        if not self._has(model, digest):
            self._requests.retried(lambda: self._finish(self._begin(model), digest, content))

    def _push_file(self, model: str, path: Path, digest: str) -> None:
        """Upload a file, in parts, unless it is there."""
        if not self._has(model, digest):
            self._requests.retried(lambda: self._upload(model, path, digest))

    def _has(self, model: str, digest: str) -> bool:
        url = self._blob(model, digest)
        return self._requests.send("HEAD", url, expected=(200, 404)).code == 200

    def _upload(self, model: str, path: Path, digest: str) -> None:
        place, size = self._begin(model), path.stat().st_size
        for start in range(0, size, PART) if size > PART else ():
            length = min(PART, size - start)
            answer = self._requests.once(
                "PATCH",
                place,
                expected=(202,),
                content=_Part(path, start, length),
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(length),
                    "Content-Range": f"{start}-{start + length - 1}",
                },
            )
            place = urljoin(place, answer.headers["Location"])
        self._finish(place, digest, b"" if size > PART else path.read_bytes())

    def _begin(self, model: str) -> str:
        """Where to upload a blob to."""
        url = self._at(model, "blobs/uploads/")
        answer = self._requests.once("POST", url, expected=(202,))
        return urljoin(url, answer.headers["Location"])

    def _finish(self, place: str, digest: str, content: bytes) -> None:
        """Send the last bytes, or all, and what they are to be; the registry checks it."""
        self._requests.once(
            "PUT",
            f"{place}{'&' if '?' in place else '?'}digest={digest}",
            expected=(201,),
            content=content,
            headers={"Content-Type": "application/octet-stream"},
        )

    def _foreign(self, what: str) -> RegistryError:
        return RegistryError(f"{self._requests.shown}: {what}", fix=DAMAGED)


class _Part:
    """A part of a file; may be read again, where a request is asked for twice."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._path, self._start, self._length = path, start, length

    def __iter__(self) -> Iterator[bytes]:
        left = self._length
        with self._path.open("rb") as file:
            file.seek(self._start)
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


def _tag(version: str) -> str:
    """The tag of a version: a tag has no `+`, and a version no `_`."""
    return version.replace("+", "_")


def _digest(content: bytes) -> str:
    return documents.digest(content)


def _entries(manifest: bytes, key: str, where: str) -> list[dict[str, Any]]:
    """The descriptors under a key."""
    try:
        entries: list[dict[str, Any]] = json.loads(manifest)[key]
        for entry in entries:
            (entry["digest"] + "", entry.get("annotations", {}).items())
        return entries
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RegistryError(
            f"{where}: answers with what is no manifest of a release",
            fix="check the registry's url",
        ) from None
