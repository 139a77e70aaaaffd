"""Signatures: a DSSE envelope over an in-toto statement with SLSA provenance, by an Ed25519 key.

https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.config.release import PEM
from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.release.document import BUILD, RELEASE, Release, parse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:crosscast:release:v1"
BUILDER = "urn:crosscast:builder"

PRIVATE, PUBLIC = "crosscast.key", "crosscast.pub"
"""Names of the files of a new pair of keys."""

FORGED = "do not use it; ask those who publish it, or pull from a registry that you trust"


def keygen(folder: Path) -> tuple[Path, Path]:
    """Write a new pair of keys under `folder`, PEM; gives the private one's path and the public's.

    Raises ConfigError where one of them is there already, and where they cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    told = key.public_key().public_bytes(
        forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo
    )
    private, public = folder / PRIVATE, folder / PUBLIC
    if there := next((path for path in (private, public) if path.exists()), None):
        raise ConfigError(
            f"{there}: is there already, and a key is never overwritten",
            fix="name another directory with -o",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(private, secret, mode=0o600)
        _write_new(public, told, mode=0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from None
    return private, public


def read_private(key: str) -> Ed25519PrivateKey:
    """The private key in a PEM file, or in the text itself. Raises ConfigError, which never has
    the text in it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    place, data = ("the key", key.encode()) if key.startswith(PEM) else (key, _read(Path(key)))
    try:
        found = load_pem_private_key(data, password=None)
    except TypeError:
        raise ConfigError(
            f"{place}: the key is encrypted", fix="give one without a password, mode 0600"
        ) from None
    except ValueError:
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise ConfigError(
            f"{place}: not an Ed25519 private key in PEM",
            fix=f"`crosscast keygen` makes one, {PRIVATE}",
        )
    return found


def read_public(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file. Raises ConfigError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    try:
        found = load_pem_public_key(data)
    except ValueError:
        found = None
    if not isinstance(found, Ed25519PublicKey):
        raise ConfigError(
            f"{path}: not an Ed25519 public key in PEM",
            fix=f"give the {PUBLIC} that `crosscast keygen` made beside the private key",
        )
    return found


def key_id(key: Ed25519PublicKey) -> str:
    """sha256 of the key's DER (SubjectPublicKeyInfo)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def statement(document: bytes) -> dict[str, Any]:
    """What is signed of a release: `document` are the bytes of its release.json.

    It binds the digests of source and config to those of all files, the verdicts on them and the
    environment that they were built in.
    """
    release = parse(document, where=RELEASE)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}}
            for name, digest in _subjects(document, release).items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": _provenance(release.content),
    }


def _subjects(document: bytes, release: Release) -> dict[str, str]:
    """sha256 of release.json and of all files that it names, by path."""
    files = {entry.path: entry.sha256 for entry in release.entries()}
    return {RELEASE: hashlib.sha256(document).hexdigest(), **files}


def sign(document: bytes, key: Ed25519PrivateKey) -> bytes:
    """The envelope (`release.dsse.json`) over the statement on a release.json of those bytes."""
    payload = json.dumps(statement(document), sort_keys=True, ensure_ascii=False).encode()
    signature = {"keyid": key_id(key.public_key()), "sig": _text(key.sign(_encoded(payload)))}
    envelope = {
        "payload": _text(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [signature],
    }
    return (json.dumps(envelope, indent=2, sort_keys=True) + "\n").encode()


def verify(document: bytes, envelope: bytes | None, key: Ed25519PublicKey) -> dict[str, Any]:
    """The statement that `key` has signed on a release.json of those bytes.

    envelope: the bytes of `release.dsse.json`; None where there is none. Raises RegistryError
    where it is not signed, not by this key, or where the statement is on another release.
    """
    if envelope is None:
        raise RegistryError(
            "the release is not signed", fix="publish it with --key, or pull it without"
        )
    payload, signatures = _opened(envelope)
    if not any(_is_signed(payload, signature, key) for signature in signatures):
        raise RegistryError(
            f"the release is not signed by the key {key_id(key)[:12]}: no signature of it fits",
            fix=FORGED,
        )
    said = json.loads(payload)
    if not _is_on(said, document):
        raise RegistryError("the signature is on another release than this one", fix=FORGED)
    return dict(said)


def _is_on(said: Any, document: bytes) -> bool:
    """Whether a statement is that on a release.json of those bytes: of each file the same."""
    try:
        subjects = {entry["name"]: entry["digest"]["sha256"] for entry in said["subject"]}
        kinds = (said["_type"], said["predicateType"])
    except (KeyError, TypeError):
        return False
    wanted = _subjects(document, parse(document, where=RELEASE))
    return kinds == (STATEMENT_TYPE, PREDICATE_TYPE) and subjects == wanted


def _opened(envelope: bytes) -> tuple[bytes, list[bytes]]:
    """Payload and signatures of an envelope."""
    try:
        told = json.loads(envelope)
        if told["payloadType"] != PAYLOAD_TYPE:
            raise ValueError(told["payloadType"])
        payload = base64.b64decode(told["payload"], validate=True)
        return payload, [base64.b64decode(entry["sig"]) for entry in told["signatures"]]
    except (KeyError, TypeError, ValueError, RecursionError, binascii.Error):
        raise RegistryError("the signature is no DSSE envelope of a release", fix=FORGED) from None


def _is_signed(payload: bytes, signature: bytes, key: Ed25519PublicKey) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _encoded(payload))
    except InvalidSignature:
        return False
    return True


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is really signed."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _provenance(content: Mapping[str, Any]) -> dict[str, Any]:
    """The predicate: of what, by what, and what came of it."""
    build, artifacts = content[BUILD], content["artifacts"]
    tools = {(n, v) for artifact in artifacts.values() for n, v in artifact["tools"].items()}
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                **{key: content[key] for key in ("model", "version", "config")},
                "targets": {name: artifact["options"] for name, artifact in artifacts.items()},
            },
            "resolvedDependencies": [
                *(
                    {"name": f"source:{name}", "digest": {"sha256": digest}}
                    for name, digest in content["source"]["files"].items()
                ),
                *_commit(build.get("commit")),
                *({"uri": f"pkg:pypi/{name}@{version}"} for name, version in sorted(tools)),
            ],
        },
        "runDetails": {
            "builder": {
                "id": BUILDER,
                "version": {key: build[key] for key in ("crosscast", "python", "platform")},
            },
            "metadata": {"startedOn": build["started"], "finishedOn": build["created"]},
            "byproducts": [
                {"name": f"{name}/verdict", "annotations": artifact["verdict"]}
                for name, artifact in artifacts.items()
            ],
        },
    }


def _commit(commit: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not commit:
        return []
    changed = {"annotations": {"dirty": True}} if commit["dirty"] else {}
    return [{"name": "repository", "digest": {"gitCommit": commit["sha1"]}, **changed}]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read: {error.strerror}") from None


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that was not there, whole or not at all; nobody else can read it meanwhile."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        path.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
