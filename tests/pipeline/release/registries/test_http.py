"""A static web server as a registry, and what the requests of registries do about faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from crosscast.pipeline import web
from crosscast.pipeline.errors import RegistryError
from crosscast.pipeline.release.document import Entry, Release
from crosscast.pipeline.release.registries import base, open_registry
from crosscast.pipeline.release.registries.http import Http

URL = "https://user:secret@host/models?token=secret"
DATA = b"0123456789"
ENTRY = Entry(path="onnx/a b.bin", sha256="0" * 64, size=len(DATA))
Answer = Callable[[httpx.Request], httpx.Response]


def registry(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, waits: list[float] | None = None
) -> Http:
    """A registry whose server is that function."""
    client = web.client
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(web, "client", lambda **given: client(**given, transport=transport))
    return Http("https://user:secret@host/models", sleep=(waits or []).append)


def answers(*codes: int, **headers: str) -> Answer:
    left = list(codes)
    return lambda request: httpx.Response(left.pop(0), content=DATA, headers=headers)


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, content=DATA)

    made = registry(answer, monkeypatch)
    assert made.index(model="m").content == DATA
    assert made.document(model="m", version="1.0.0+x", name="release.json") == DATA
    with made.open(model="m", version="1.0.0", entry=ENTRY) as chunks:
        assert b"".join(chunks) == DATA
    assert asked == [
        "/models/m/index.json",
        "/models/m/1.0.0+x/release.json",
        "/models/m/1.0.0/onnx/a b.bin",
    ]


def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry(answers(404, 404), monkeypatch)
    assert made.index(model="m").content == b""
    assert made.document(model="m", version="1.0.0", name="release.json") is None


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again_when_it_says(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = [0.0]
    made = registry(answers(code, code, 200, **{"Retry-After": "7"}), monkeypatch, waits)
    assert made.index(model="m").content == DATA
    assert waits == [0.0, 7.0, 7.0]


def test_a_server_that_stays_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry(answers(*[503] * 5), monkeypatch)
    with pytest.raises(RegistryError, match=r"answered 503 Service Unavailable \(5 tries\)"):
        made.index(model="m")


@pytest.mark.parametrize("code", [401, 403])
def test_credentials_are_asked_for_and_never_shown(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RegistryError) as caught:
        registry(answers(code), monkeypatch).index(model="m")
    assert "credentials are missing, wrong, expired" in str(caught.value)
    assert "~/.netrc" in str(caught.value)
    assert "https://host/models" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_netrc_is_told_to_its_host_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine host login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    told = []

    def answer(request: httpx.Request) -> httpx.Response:
        told.append((request.url.host, "Authorization" in request.headers))
        if request.url.host == "host":
            return httpx.Response(302, headers={"Location": "https://storage/x"})
        return httpx.Response(200, content=DATA)

    client = web.client
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(web, "client", lambda **given: client(**given, transport=transport))
    assert Http("https://host/models").index(model="m").content == DATA
    assert told == [("host", True), ("storage", False)]


def test_redirects_end(monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry(lambda r: httpx.Response(302, headers={"Location": str(r.url)}), monkeypatch)
    with pytest.raises(RegistryError, match="it redirects more than 5 times"):
        made.index(model="m")


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(RegistryError, match=r"connection refused \(5 tries\)"):
        registry(answer, monkeypatch).index(model="m")


def test_an_answer_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from crosscast.pipeline.release.registries import requests

    monkeypatch.setattr(requests, "LARGEST", 5)
    with pytest.raises(RegistryError, match="an answer is larger than"):
        registry(answers(200), monkeypatch).index(model="m")
    assert base.LARGEST == 16 << 20


@pytest.mark.parametrize(
    ("code", "headers"),
    [(206, {"Content-Range": "bytes 4-9/10"}), (200, {})],
    ids=["with ranges", "without"],
)
def test_a_download_goes_on(
    code: int, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Range"])
        return httpx.Response(code, content=DATA[4:] if code == 206 else DATA, headers=headers)

    made = registry(answer, monkeypatch)
    with made.open(model="m", version="1.0.0", entry=ENTRY, start=4) as chunks:
        assert b"".join(chunks) == DATA[4:]
    assert asked == ["bytes=4-"]


@pytest.mark.parametrize("code", [206, 500])
def test_a_download_that_may_go_well_later(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry(answers(code), monkeypatch)
    with (
        pytest.raises(web.Transient),
        made.open(model="m", version="1.0.0", entry=ENTRY, start=4) as chunks,
    ):
        list(chunks)


def test_a_file_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry(answers(404), monkeypatch)
    with (
        pytest.raises(RegistryError, match="answered 404"),
        made.open(model="m", version="1.0.0", entry=ENTRY) as chunks,
    ):
        list(chunks)


def test_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    made = registry(answers(), monkeypatch)
    with pytest.raises(RegistryError, match="only read"):
        made.write_index(model="m", content=b"", token="")
    with pytest.raises(RegistryError, match="only read"):
        made.publish(folder=Path(), release=Release(content={}))


def test_urls_open_their_registries() -> None:
    assert isinstance(open_registry("https://host/models"), Http)
    assert isinstance(open_registry("http://host"), Http)
