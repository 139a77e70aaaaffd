"""An OCI registry: who we are to it, and what is refused. The protocol itself: tests/e2e."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import shipped

from crosscast.pipeline import web
from crosscast.pipeline.errors import ConfigError, GateError, RegistryError
from crosscast.pipeline.release import channels
from crosscast.pipeline.release.registries import oci
from crosscast.pipeline.release.registries import oci_documents as documents
from crosscast.pipeline.release.registries.oci import Oci
from crosscast.pipeline.release.registries.oci_auth import IDENTITY, Credentials, credentials

BASIC = "Basic " + base64.b64encode(b"me:mine").decode()
CHALLENGE = 'Bearer realm="{}",service="ours",scope="repository:m:pull"'
CLIENT = web.client
Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_AUTH_CONFIG", raising=False)


def log_in(tmp_path: Path, **entry: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"host": entry}}))


def registry(answer: Answer, monkeypatch: pytest.MonkeyPatch, url: str = "oci://host/of") -> Oci:
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(web, "client", lambda **given: CLIENT(**given, transport=transport))
    return Oci(url, sleep=lambda seconds: None)


def guarded(challenge: str, accepted: str, asked: list[httpx.Request]) -> Answer:
    """A registry that has nothing, for who has the right header; and its token server."""

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.host == "tokens":
            return httpx.Response(200, json={"token": "a-token"})
        if request.headers.get("Authorization") == accepted:
            return httpx.Response(404)
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})

    return answer


def test_a_token_is_asked_for_once_and_with_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path, auth=base64.b64encode(b"me:mine").decode())
    asked: list[httpx.Request] = []
    answer = guarded(CHALLENGE.format("https://tokens/t"), "Bearer a-token", asked)
    made = registry(answer, monkeypatch)
    assert made.index(model="m").content == b""
    assert made.document(model="m", version="1.0.0+x", name="release.json") is None
    assert [str(request.url) for request in asked] == [
        "https://host/v2/of/m/manifests/index",
        "https://tokens/t?service=ours&scope=repository%3Am%3Apull",
        "https://host/v2/of/m/manifests/index",
        "https://host/v2/of/m/manifests/1.0.0_x",
    ]
    assert asked[1].headers["Authorization"] == BASIC


def test_anonymous_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[httpx.Request] = []
    answer = guarded(CHALLENGE.format("https://tokens/t"), "Bearer a-token", asked)
    registry(answer, monkeypatch).index(model="m")
    assert "Authorization" not in asked[1].headers


def test_identity_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(tmp_path, identitytoken="kept")
    asked: list[httpx.Request] = []
    answer = guarded(CHALLENGE.format("https://tokens/t"), "Bearer a-token", asked)
    registry(answer, monkeypatch).index(model="m")
    assert asked[1].method == "POST"
    assert b"refresh_token=kept" in asked[1].content


def test_name_and_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(tmp_path, username="me", password="mine")
    asked: list[httpx.Request] = []
    registry(guarded('Basic realm="x"', BASIC, asked), monkeypatch).index(model="m")
    assert len(asked) == 2


def test_a_token_that_expires_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(("first", "second", "third"))
    uses: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "tokens":
            return httpx.Response(200, json={"token": next(tokens)})
        uses.append(request.headers.get("Authorization", ""))
        if uses.count(uses[-1]) > 2 or not uses[-1]:
            challenge = CHALLENGE.format("https://tokens/t")
            return httpx.Response(401, headers={"WWW-Authenticate": challenge})
        return httpx.Response(404)

    made = registry(answer, monkeypatch)
    for _ in range(5):
        assert made.index(model="m").content == b""
    assert uses[1:] == [*["Bearer first"] * 3, *["Bearer second"] * 3, "Bearer third"]


@pytest.mark.parametrize("challenge", ["Basic", "", CHALLENGE.format("http://tokens/t")])
def test_wrong_or_no_credentials_end_at_once(
    challenge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one would send the password over a connection that anybody can read."""
    log_in(tmp_path, username="me", password="wrong-one")
    asked: list[httpx.Request] = []
    made = registry(guarded(challenge, BASIC, asked), monkeypatch)
    with pytest.raises(RegistryError, match="credentials are missing") as caught:
        made.index(model="m")
    assert "docker login" in str(caught.value)
    assert "wrong-one" not in str(caught.value)
    assert {request.url.host for request in asked} == {"host"}


def test_a_redirect_elsewhere_is_told_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path, username="me", password="mine")
    told = []

    def answer(request: httpx.Request) -> httpx.Response:
        told.append((request.url.host, request.headers.get("Authorization")))
        if request.url.host == "storage":
            return httpx.Response(404)
        if "Authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic"})
        return httpx.Response(307, headers={"Location": "https://storage/x"})

    registry(answer, monkeypatch).index(model="m")
    assert told == [("host", None), ("host", BASIC), ("storage", None)]


def test_credential_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-ours"
    helper.write_text(
        f'#!{sys.executable}\nprint(\'{{"Username": "<token>", "Secret": "kept"}}\')\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"host": "ours"}}))
    assert credentials("host") == Credentials(name=IDENTITY, password="kept")
    assert credentials("other") is None
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "gone"}))
    with pytest.raises(RegistryError, match=r"docker-credential-gone, .*, does not work"):
        credentials("host")


def test_dockers_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials("host") is None
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"host": {"username": "me"}}}))
    assert credentials("host") == Credentials(name="me", password="")
    assert "me" not in repr(credentials("host"))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", "{")
    with pytest.raises(RegistryError, match=r"docker's config.json.* cannot be read"):
        credentials("host")
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"host": {"auth": "!"}}}))
    with pytest.raises(RegistryError, match="the entry of host is damaged"):
        credentials("host")


@pytest.mark.parametrize("url", ["oci:///x", "oci://me:mine@host/x", "oci://host/Upper"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="no place in an OCI registry") as caught:
        Oci(url)
    assert "mine" not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"layers": [1]}'])
def test_what_is_no_manifest(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry(lambda request: httpx.Response(200, content=body), monkeypatch)
    with pytest.raises(RegistryError, match="no manifest of a release"):
        made.index(model="m")


def test_a_document_of_another_digest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = documents.index_manifest("index.json", b"right").content

    def answer(request: httpx.Request) -> httpx.Response:
        content = manifest if "manifests" in request.url.path else b"wrong"
        return httpx.Response(200, content=content)

    with pytest.raises(RegistryError, match=r"index.json of m has another digest"):
        registry(answer, monkeypatch).index(model="m")


# Tags that others write at the same time


class Stored:
    """A registry that keeps blobs and manifests in memory. meanwhile: what happens as soon as
    a publisher waits.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: dict[str, bytes] = {}
        self.meanwhile: list[Callable[[], None]] = []
        self.oci = registry(self.answer, monkeypatch)
        self.oci._requests.sleep = self._wait

    def _wait(self, seconds: float) -> None:
        assert seconds == oci.SETTLED
        if self.meanwhile:
            self.meanwhile.pop()()

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": path})
        if request.method == "PUT":
            name = request.url.params.get("digest") or path.rpartition("/")[2]
            self.held[name] = request.content
            self.held[documents.digest(request.content)] = request.content
            return httpx.Response(201)
        found = self.held.get(path.rpartition("/")[2])
        return httpx.Response(404) if found is None else httpx.Response(200, content=found)

    def tags(self) -> dict[str, bytes]:
        return {name: held for name, held in self.held.items() if not name.startswith("sha256:")}


def test_an_entry_that_another_writer_took_away_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other has looked before this one wrote, and writes after it."""
    stored = Stored(monkeypatch)
    other = documents.index_manifest("index.json", b'{"schema": 1}')
    stored.held[documents.digest(b'{"schema": 1}')] = b'{"schema": 1}'
    stored.meanwhile.append(lambda: stored.held.update(index=other.content))
    channels.update(stored.oci, "m", lambda shelf: shelf.add("1.0.0", "a"))
    assert not stored.meanwhile
    assert channels.read(stored.oci, "m").versions == {"1.0.0": "a"}


def test_an_entry_that_another_writer_has_kept_is_written_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change that is not the same when done twice: a rollback."""
    stored = Stored(monkeypatch)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        channels.update(stored.oci, "m", lambda s, v=version: s.add(v, "a").promote("stable", v))
    stored.meanwhile.append(
        lambda: channels.update(stored.oci, "m", lambda shelf: shelf.add("9.0.0", "b")) and None
    )
    assert channels.rollback(stored.oci, model="m", channel="stable") == ("1.1.0", "1.2.0")
    found = channels.read(stored.oci, "m")
    assert [naming.version for naming in found.channels["stable"]][2:] == ["1.2.0", "1.1.0"]
    assert "9.0.0" in found.versions


def test_of_two_with_one_version_the_last_one_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, other = Stored(monkeypatch), Stored(monkeypatch)
    for made, data in ((other, b"theirs"), (stored, b"ours")):
        folder = tmp_path / data.decode()
        release = shipped.made(folder, data=data)
        if made is stored:
            stored.meanwhile.append(lambda: stored.held.update(other.held))
            with pytest.raises(GateError, match="a version never changes"):
                stored.oci.publish(folder=folder, release=release)
        else:
            other.oci.publish(folder=folder, release=release)
    assert stored.tags() == other.tags()


def test_the_first_one_takes_the_tags_of_its_manifests_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some registries collect manifests that have none."""
    stored = Stored(monkeypatch)
    release = shipped.made(tmp_path / "r")
    stored.meanwhile.append(lambda: stored.held.update({"1.0.0__onnx": b"of another"}))
    stored.oci.publish(folder=tmp_path / "r", release=release)
    manifest = documents.model_manifest(release, "onnx")
    assert stored.tags()["1.0.0__onnx"] == manifest.content


@pytest.mark.parametrize(("code", "headers"), [(429, {"Retry-After": "7"}), (503, {})])
def test_a_registry_that_is_busy_is_published_to_all_the_same(
    code: int, headers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request of each kind is refused."""
    well, busy = Stored(monkeypatch), Stored(monkeypatch)
    release = shipped.made(tmp_path / "r")
    well.oci.publish(folder=tmp_path / "r", release=release)
    seen, waits = set(), []

    def answer(request: httpx.Request) -> httpx.Response:
        kind = (request.method, str(request.url))
        if kind not in seen:
            seen.add(kind)
            return httpx.Response(code, headers=headers)
        return busy.answer(request)

    made = registry(answer, monkeypatch)
    made._requests.sleep = waits.append
    made.publish(folder=tmp_path / "r", release=release)
    assert busy.held == well.held
    assert {*waits} == {oci.SETTLED, *([7.0] if headers else [0.5])}


def test_the_documents_of_a_release(tmp_path: Path) -> None:
    release = shipped.made(tmp_path / "r", targets=("onnx", "tflite-int8"))
    manifest = documents.model_manifest(release, "onnx")
    told = json.loads(manifest.content)
    assert told["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert told["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert [(layer["mediaType"], layer["annotations"]) for layer in told["layers"]][:1] == [
        (
            documents.WEIGHT,
            {documents.FILEPATH: "model.bin", documents.NAME: "model.bin"},
        )
    ]
    assert {layer["mediaType"] for layer in told["layers"]} == {
        documents.WEIGHT,
        documents.WEIGHT_CONFIG,
        documents.DOC,
    }
    index = documents.release_index(release, [manifest])
    assert json.loads(index.content)["manifests"][0] == {
        "mediaType": documents.IMAGE_MANIFEST,
        "digest": manifest.digest,
        "size": len(manifest.content),
        "annotations": {documents.NAME: "m", documents.VERSION: "1.0.0", documents.TARGET: "onnx"},
    }
    assert index == documents.release_index(release, [manifest])
