"""Signatures: what an independent implementation says of them, and what is refused."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from releases import artifact, content
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.release import signing

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


def document(data: bytes = b"weights") -> bytes:
    return json.dumps(content({"onnx": artifact(files={"model.onnx": data})})).encode()


def checked_by_others(envelope: bytes, key: Ed25519PrivateKey) -> dict[str, Any]:
    public = key.public_key()
    theirs = SSlibKey.from_crypto(public, keyid=signing.key_id(public))
    told = Envelope.from_dict(json.loads(envelope))
    told.verify([theirs], 1)
    assert told.payload_type == "application/vnd.in-toto+json"
    return dict(json.loads(told.payload))


def test_an_independent_implementation_agrees() -> None:
    said = checked_by_others(signing.sign(document(), KEY), KEY)
    assert said == signing.verify(document(), signing.sign(document(), KEY), KEY.public_key())


def test_an_independent_implementation_refuses_another_key() -> None:
    with pytest.raises(VerificationError):
        checked_by_others(signing.sign(document(), KEY), OTHER)


def test_the_statement_binds_files_verdicts_source_and_environment() -> None:
    said = checked_by_others(signing.sign(document(), KEY), KEY)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [entry["name"] for entry in said["subject"]] == ["release.json", "onnx/model.onnx"]
    built, ran = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    assert built["resolvedDependencies"] == [
        {"name": "source:onnx", "digest": {"sha256": "d" * 64}},
        {"name": "repository", "digest": {"gitCommit": "0" * 40}},
        {"uri": "pkg:pypi/onnx@1.18.0"},
    ]
    assert built["externalParameters"]["config"] == {"sha256": "c" * 64}
    assert ran["byproducts"][0]["name"] == "onnx/verdict"
    assert ran["byproducts"][0]["annotations"]["status"] == "passed"
    assert ran["builder"]["version"]["python"] == "3.11.2"


def changed(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda envelope: json.dumps({**json.loads(envelope), **changes}).encode()


def with_other_payload(envelope: bytes) -> bytes:
    told = json.loads(envelope)
    payload = base64.b64decode(told["payload"]).replace(b'"passed"', b'"failed"')
    return json.dumps({**told, "payload": base64.b64encode(payload).decode()}).encode()


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (with_other_payload, "not signed by the key"),
        (lambda _: signing.sign(document(), OTHER), "not signed by the key"),
        (lambda _: signing.sign(document(b"other"), KEY), "on another release"),
        (changed(signatures=[]), "not signed by the key"),
        (changed(payloadType="text/plain"), "no DSSE envelope"),
        (changed(payload="%%%"), "no DSSE envelope"),
        (changed(signatures=[{"sig": "AAAA"}]), "not signed by the key"),
        (lambda _: b"[]", "no DSSE envelope"),
        (lambda _: b"", "no DSSE envelope"),
        (lambda _: None, "not signed"),
    ],
)
def test_what_is_forged_is_refused(forge: Callable[[bytes], bytes | None], said: str) -> None:
    with pytest.raises(RegistryError, match=said):
        signing.verify(document(), forge(signing.sign(document(), KEY)), KEY.public_key())


def test_a_statement_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "PREDICATE_TYPE", "https://example.com/other")
    envelope = signing.sign(document(), KEY)
    monkeypatch.undo()
    with pytest.raises(RegistryError, match="on another release"):
        signing.verify(document(), envelope, KEY.public_key())


def test_a_changed_file_of_the_release_is_refused() -> None:
    with pytest.raises(RegistryError, match="on another release"):
        signing.verify(document(b"other"), signing.sign(document(), KEY), KEY.public_key())


def test_a_new_pair_signs_and_its_private_key_is_private(tmp_path: Path) -> None:
    private, public = signing.keygen(tmp_path / "keys")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    envelope = signing.sign(document(), signing.read_private(str(private)))
    assert signing.verify(document(), envelope, signing.read_public(public))
    assert signing.sign(document(), signing.read_private(private.read_text())) == envelope


@pytest.mark.parametrize("there", [signing.PRIVATE, signing.PUBLIC])
def test_a_key_is_never_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(ConfigError, match="never overwritten"):
        signing.keygen(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def pem(key: Any, encryption: Any = None) -> str:
    form = PrivateFormat.PKCS8
    return str(key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (pem(KEY, BestAvailableEncryption(b"secret")), "the key is encrypted"),
        (pem(generate_private_key(65537, 2048)), "not an Ed25519 private key"),
        ("-----BEGIN PRIVATE KEY-----\nsecret", "not an Ed25519 private key"),
        ("/nowhere/own.key", "/nowhere/own.key: the key cannot be read: No such file"),
    ],
)
def test_other_keys_are_refused_without_telling_them(key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        signing.read_private(key)
    assert key.splitlines()[-1] not in str(refused.value) or key.startswith("/")


def test_a_private_key_is_no_public_one(tmp_path: Path) -> None:
    (tmp_path / "x.pub").write_text(pem(KEY))
    with pytest.raises(ConfigError, match="not an Ed25519 public key"):
        signing.read_public(tmp_path / "x.pub")


def test_the_key_id_is_the_digest_of_the_der() -> None:
    import hashlib

    der = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert signing.key_id(KEY.public_key()) == hashlib.sha256(der).hexdigest()
