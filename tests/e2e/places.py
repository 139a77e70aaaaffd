"""Real registries, and releases made up for them: a directory, lighttpd, SeaweedFS, Debian's
docker-registry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import servers
import shipped

from crosscast.pipeline.release import channels, signing
from crosscast.pipeline.release.document import RELEASE, SIGNATURE
from crosscast.pipeline.release.registries import oci, open_registry

KINDS = ("directory", "http", "s3", "oci")
TARGETS = ("onnx", "tflite-int8", "coreml-fp16")
DATA = random.Random(0).randbytes(1_000_000)
WAIT = 0.05
"""Seconds for which publishers to OCI wait, but where they are tested together."""

all_places = pytest.mark.parametrize("place", KINDS, indirect=True)
written = pytest.mark.parametrize("place", ["directory", "s3", "oci"], indirect=True)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A registry, and the url that it is published to."""

    url: str
    publish: str
    root: Path


@contextmanager
def opened(root: Path) -> Iterator[dict[str, Place]]:
    """All registries, by kind; the environment has the credentials. Publishers hardly wait."""
    roots = {kind: root / kind for kind in KINDS}
    served = roots["http"] / "models"
    for folder in (*roots.values(), served):
        folder.mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        servers.http_server(served, roots["http"] / "log.txt") as web,
        servers.s3(roots["s3"]) as variables,
        servers.oci(roots["oci"]) as host,
    ):
        patch.setattr(oci, "SETTLED", WAIT)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("DOCKER_CONFIG", str(servers.docker_config(roots["oci"] / "docker", host)))
        urls = {
            "directory": (str(roots["directory"]), str(roots["directory"])),
            "http": (web, str(served)),
            "s3": ("s3://models/of/ours",) * 2,
            "oci": (f"oci://{host}/of/ours",) * 2,
        }
        yield {
            kind: Place(url=url, publish=publish, root=roots[kind])
            for kind, (url, publish) in urls.items()
        }


class Made:
    """A release of its own model, for one test."""

    def __init__(self, root: Path, model: str, version: str = "1.0.0", data: bytes = DATA) -> None:
        self.folder = root / f"{model}-{version}"
        private, self.public = signing.keygen(root / f"keys-{model}-{version}")
        self.release = shipped.made(
            self.folder, model=model, version=version, data=data, targets=TARGETS, key=private
        )

    def publish(self, place: Place) -> None:
        """Publish it, as what `stable` names."""
        shipped.publish(open_registry(place.publish), self.folder, self.release)

    def is_seen(self, place: Place) -> bool:
        """Whether readers see the release; if so, all of it is there, its signature too. Who finds
        it in the index sees it.
        """
        registry, release = open_registry(place.url), self.release
        shelf = channels.read(registry, release.model)
        named = {"model": release.model, "version": release.version}
        if registry.document(**named, name=RELEASE) is None:
            assert release.version not in shelf.versions
            return False
        for entry in release.entries():
            with registry.open(**named, entry=entry) as chunks:
                assert b"".join(chunks) == (self.folder / entry.path).read_bytes()
        signature = registry.document(**named, name=SIGNATURE)
        assert signature == (self.folder / SIGNATURE).read_bytes()
        return True
