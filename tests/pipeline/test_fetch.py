"""Downloads, from a server on the loopback interface that misbehaves on purpose."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline import fetch as fetching
from crosscast.pipeline.config.fields import Download
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.fetch import fetch, missing
from crosscast.pipeline.store import Store, default_root
from crosscast.pipeline.web import shown

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """What it serves, how, and what it was asked."""

    faults: list[str]
    ranges: bool
    asked: list[str]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that tests cut."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Tests read `asked`."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault == "redirect" or self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop" if self.path == "/loop" else "/other.onnx")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(wanted, fault)

    def _send(self, wanted: str, fault: str) -> None:
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        self.close_connection = fault == "cut"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.faults, made.ranges, made.asked = [], True, []
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def download(server: Server, path: str = "/zoo/model.onnx", sha256: str = DIGEST) -> Download:
    return Download(url=f"http://127.0.0.1:{server.server_address[1]}{path}", sha256=sha256)


class Log:
    """What a fetch told, and how long it waited."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.waits: list[float] = []

    def fetch(self, given: Download) -> bytes:
        store = Store(default_root())
        fetch(given, store=store, tell=self.told.append, sleep=self.waits.append)
        assert not missing([given], store=store)
        return given.path.read_bytes()


def parts() -> list[Path]:
    return list(default_root().rglob("*.part"))


def test_a_file_is_fetched_once_and_told(server: Server) -> None:
    log, given = Log(), download(server)
    assert missing([given], store=Store(default_root())) == [given]
    assert log.fetch(given) == CONTENT
    assert given.path == default_root() / "downloads" / DIGEST / "model.onnx"
    assert log.told == [f"fetching {given.url}: 0.0 of 1.2 MiB"]
    assert log.fetch(given) == CONTENT
    assert server.asked == [""]
    assert not parts()


def test_a_cut_connection_is_resumed_where_it_broke(server: Server) -> None:
    server.faults = ["cut", "cut"]
    log = Log()
    assert log.fetch(download(server)) == CONTENT
    starts = [int(asked[6:-1] or 0) if asked else 0 for asked in server.asked]
    assert len(starts) == 3
    assert starts == sorted(set(starts))
    assert any("the connection broke off" in text for text in log.told)


def test_a_server_without_ranges_starts_again(server: Server) -> None:
    server.faults, server.ranges = ["cut"], False
    assert Log().fetch(download(server)) == CONTENT
    assert len(server.asked) == 2


def test_a_killed_fetch_is_resumed_by_the_next(server: Server) -> None:
    given = download(server)
    given.path.parent.mkdir(parents=True)
    given.path.with_name("model.onnx.part").write_bytes(CONTENT[:1000])
    assert Log().fetch(given) == CONTENT
    assert server.asked == ["bytes=1000-"]


@pytest.mark.parametrize("left", [b"something else", CONTENT + b"more", CONTENT])
def test_leftovers_that_are_not_its_beginning_are_thrown_away(left: bytes, server: Server) -> None:
    given = download(server)
    given.path.parent.mkdir(parents=True)
    given.path.with_name("model.onnx.part").write_bytes(left)
    assert Log().fetch(given) == CONTENT


@pytest.mark.parametrize("code", ["500", "503", "429"])
def test_a_busy_server_is_asked_again_when_it_says(code: str, server: Server) -> None:
    server.faults = [code]
    log = Log()
    assert log.fetch(download(server)) == CONTENT
    assert log.waits == [7.0]


def test_a_server_that_stays_busy_is_an_error(server: Server) -> None:
    server.faults = ["503"] * 9
    with pytest.raises(StageError, match=r"answered 503 Service Unavailable \(5 tries\)"):
        Log().fetch(download(server))
    assert len(server.asked) == 5


@pytest.mark.parametrize("code", ["404", "403", "410"])
def test_what_is_not_there_is_not_asked_for_again(code: str, server: Server) -> None:
    server.faults = [code]
    with pytest.raises(StageError, match=f"cannot be fetched: the server answered {code}"):
        Log().fetch(download(server))
    assert len(server.asked) == 1


def test_redirects_are_followed_but_not_for_ever(server: Server) -> None:
    server.faults = ["redirect"]
    assert Log().fetch(download(server)) == CONTENT
    with pytest.raises(StageError, match="redirects more than 5 times"):
        Log().fetch(download(server, "/loop", "0" * 64))


def test_another_file_than_was_meant_never_gets_its_name(server: Server) -> None:
    given = download(server, sha256="0" * 64)
    with pytest.raises(StageError, match=f"another file than the config means: .* {DIGEST}, not 0"):
        Log().fetch(given)
    assert not given.path.exists()
    assert not parts()


def test_a_damaged_file_is_fetched_again(server: Server) -> None:
    given = download(server)
    Log().fetch(given)
    given.path.write_bytes(b"damaged")
    assert missing([given], store=Store(default_root())) == [given]
    assert Log().fetch(given) == CONTENT


def test_nobody_answers(server: Server) -> None:
    given = download(server)
    server.shutdown()
    server.server_close()
    log = Log()
    with pytest.raises(StageError, match=r"cannot be fetched: .* \(5 tries\)"):
        log.fetch(given)
    assert log.waits == [0.5, 1.0, 2.0, 4.0]


def test_builds_at_once_fetch_once(server: Server) -> None:
    given = download(server)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Log().fetch(given), range(4)))
    assert found == [CONTENT] * 4
    assert server.asked == [""]


def test_a_full_disk_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "_attempt", full)
    with pytest.raises(StageError, match="no space left on the disk"):
        Log().fetch(download(server))


def test_a_file_of_this_machine(tmp_path: Path) -> None:
    source = tmp_path / "a model.onnx"
    source.write_bytes(CONTENT)
    given = Download(url=source.as_uri(), sha256=DIGEST)
    assert Log().fetch(given) == CONTENT
    assert given.path.name == "a_model.onnx"
    gone = Download(url=(tmp_path / "gone").as_uri(), sha256="0" * 64)
    with pytest.raises(StageError, match="no such file"):
        Log().fetch(gone)


def test_secrets_of_a_url_are_not_told() -> None:
    assert shown("https://me:secret@host:8/a%20b.onnx?token=1") == "https://host:8/a b.onnx"
