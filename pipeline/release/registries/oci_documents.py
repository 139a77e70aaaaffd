"""A release as OCI documents, by the CNCF model format specification (ModelPack). Pure.

A release is an image index; its manifests are the targets, and one that holds `release.json` and
its signature. Files are raw layers, so that a broken download can go on. What matters is in
annotations: some clients drop `artifactType` of an index when they copy it.

https://github.com/modelpack/model-spec, https://github.com/opencontainers/image-spec
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crosscast.pipeline.manifest import CALIBRATION, MANIFEST, VECTORS
from crosscast.pipeline.release.document import Release

IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"

MODEL = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"
DATASET = "application/vnd.cncf.model.dataset.v1.raw"
FILEPATH = "org.cncf.model.filepath"

RELEASE_DOCUMENTS = "application/vnd.crosscast.release.v1+json"
MODEL_INDEX = "application/vnd.crosscast.index.v1+json"
JSON = "application/json"

TARGET = "org.crosscast.target"
DIGEST = "org.crosscast.release.digest"
NAME = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"

EMPTY_CONFIG = b"{}"

KINDS = {
    MANIFEST: WEIGHT_CONFIG,
    CALIBRATION: WEIGHT_CONFIG,
    VECTORS: DATASET,
    "USAGE.md": DOC,
}
"""The media type of a file by its name; all others are weights."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest or an index: its bytes as they are stored."""

    kind: str
    content: bytes
    annotations: Mapping[str, str]

    @property
    def digest(self) -> str:
        """As OCI writes it."""
        return digest(self.content)

    def descriptor(self) -> dict[str, Any]:
        """Its entry in an index."""
        return described(self.kind, self.digest, len(self.content), self.annotations)


def digest(content: bytes) -> str:
    """The digest of bytes, as OCI writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def described(
    kind: str, digest: str, size: int, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A descriptor."""
    told = {"mediaType": kind, "digest": digest, "size": size}
    return {**told, "annotations": dict(annotations)} if annotations else told


def model_config(release: Release, target: str) -> bytes:
    """The config of a target's manifest."""
    artifact = release.content["artifacts"][target]
    precision = (artifact.get("precision") or {}).get("delivered")
    return _bytes(
        {
            "descriptor": {"name": release.model, "version": release.version, "title": target},
            "config": {
                "format": artifact["format"],
                **({"precision": precision} if precision else {}),
            },
            "modelfs": {
                "type": "layers",
                "diffIds": [f"sha256:{file['sha256']}" for file in artifact["files"]],
            },
        }
    )


def model_manifest(release: Release, target: str) -> Manifest:
    """A target's manifest: a layer for each file."""
    config = model_config(release, target)
    layers = [
        described(
            KINDS.get(file["path"], WEIGHT),
            f"sha256:{file['sha256']}",
            file["size"],
            {FILEPATH: file["path"], NAME: file["path"]},
        )
        for file in release.content["artifacts"][target]["files"]
    ]
    annotations = {**_names(release), TARGET: target}
    return _manifest(
        MODEL, described(MODEL_CONFIG, digest(config), len(config)), layers, annotations
    )


def documents_manifest(release: Release, documents: Mapping[str, bytes]) -> Manifest:
    """The manifest of `release.json` and its signature: by name, their bytes."""
    layers = [_document(name, content) for name, content in documents.items()]
    annotations = {**_names(release), DIGEST: release.digest}
    return _manifest(RELEASE_DOCUMENTS, _empty(), layers, annotations)


def index_manifest(name: str, content: bytes) -> Manifest:
    """The manifest of a model's `index.json`."""
    return _manifest(MODEL_INDEX, _empty(), [_document(name, content)], {NAME: name})


def release_index(release: Release, manifests: Iterable[Manifest]) -> Manifest:
    """The image index that is the release."""
    annotations = {**_names(release), DIGEST: release.digest}
    content = {
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX,
        "artifactType": MODEL,
        "manifests": [manifest.descriptor() for manifest in manifests],
        "annotations": annotations,
    }
    return Manifest(kind=IMAGE_INDEX, content=_bytes(content), annotations=annotations)


def _manifest(
    artifact_type: str,
    config: Mapping[str, Any],
    layers: list[dict[str, Any]],
    annotations: Mapping[str, str],
) -> Manifest:
    content = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": artifact_type,
        "config": config,
        "layers": layers,
        "annotations": dict(annotations),
    }
    return Manifest(kind=IMAGE_MANIFEST, content=_bytes(content), annotations=annotations)


def _document(name: str, content: bytes) -> dict[str, Any]:
    return described(JSON, digest(content), len(content), {FILEPATH: name, NAME: name})


def _empty() -> dict[str, Any]:
    return described(EMPTY, digest(EMPTY_CONFIG), len(EMPTY_CONFIG))


def _names(release: Release) -> dict[str, str]:
    return {NAME: release.model, VERSION: release.version}


def _bytes(value: Any) -> bytes:
    """Equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
