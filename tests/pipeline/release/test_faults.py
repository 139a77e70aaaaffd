"""Pull from a web server that misbehaves, over real sockets: the message, the exit code, and that
nothing half-written is seen. What has arrived may be kept in a hidden directory for the next pull.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import faulty
import pytest
import shipped
from faulty import Fault, Server, says

from crosscast.pipeline import cli, web
from crosscast.pipeline.release.registries.directory import Directory

Say = pytest.CaptureFixture[str]
DATA = bytes(range(256)) * 400
KEPT = {".m.pull"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of a registry with `m` 1.0.0; few tries, without long waits."""
    release = shipped.made(tmp_path / "built", data=DATA)
    shipped.publish(Directory(tmp_path / "registry"), tmp_path / "built", release)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(web, "TRIES", 3)
    monkeypatch.setattr(web, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with faulty.running(tmp_path / "registry") as found:
        yield found


def pull(server: Server) -> int:
    return cli.run(["pull", f"{server.url}/m", "-t", "onnx"])


def is_whole(tmp_path: Path) -> bool:
    return shipped.files(Path("m")) == shipped.files(tmp_path / "built/onnx")


FILE, DOCUMENT, INDEX = "onnx/model.bin", "release.json", "index.json"
REFUSED = "credentials are missing, wrong, expired or do not allow this"


@pytest.mark.parametrize(
    ("fault", "at", "said"),
    [
        (faulty.dies, FILE, "onnx/model.bin: the connection broke off (3 tries)"),
        (faulty.dies, DOCUMENT, "the connection broke off (3 tries)"),
        (faulty.dies, INDEX, "the connection broke off (3 tries)"),
        (faulty.hangs_up, FILE, "onnx/model.bin: the connection broke off (3 tries)"),
        (faulty.hangs_up, INDEX, "the connection broke off (3 tries)"),
        (faulty.babbles, FILE, "onnx/model.bin: the connection broke off (3 tries)"),
        (faulty.babbles, INDEX, "the connection broke off (3 tries)"),
        (faulty.truncates, FILE, "is not the file that was released: it has 51202 bytes"),
        (faulty.truncates, DOCUMENT, "no release.json that can be used"),
        (faulty.truncates, INDEX, "the index of m cannot be used"),
        (faulty.alters, FILE, "is not the file that was released"),
        (faulty.alters, DOCUMENT, "no release.json that can be used"),
        (faulty.floods, FILE, "the registry sends more than the 102404 bytes"),
        (faulty.loops, FILE, "it redirects more than 5 times"),
        (faulty.loops, INDEX, "it redirects more than 5 times"),
        (faulty.wanders, FILE, "the url cannot be used"),
        (says(404), FILE, "the server answered 404 Not Found"),
        (says(404), DOCUMENT, "m@1.0.0: is in the index, but not there"),
        (says(404), INDEX, "has no model 'm'"),
        (says(410), FILE, "the server answered 410 Gone"),
        (says(500), FILE, "the server answered 500 Internal Server Error (3 tries)"),
        (says(500), INDEX, "the server answered 500 Internal Server Error (3 tries)"),
        (says(429, Retry_After="0"), FILE, "the server answered 429 Too Many Requests (3 tries)"),
        (says(401), INDEX, REFUSED),
        (says(403), FILE, REFUSED),
        (says(200, b"<html>Log in</html>"), INDEX, "the index of m cannot be used"),
        (says(200, b""), FILE, "is not the file that was released: it has 0 bytes"),
    ],
)
def test_a_server_that_misbehaves(
    fault: Fault, at: str, said: str, server: Server, tmp_path: Path, capsys: Say
) -> None:
    server.misbehave(fault, at=at)
    assert pull(server) == 6
    told = capsys.readouterr().err
    assert said in told
    assert "fix: " in told
    assert {path.name for path in Path().iterdir()} <= KEPT
    server.misbehave(fault, times=0)
    assert pull(server) == 0
    assert is_whole(tmp_path)
    assert [path.name for path in Path().iterdir()] == ["m"]


@pytest.mark.parametrize("at", [FILE, DOCUMENT, INDEX])
@pytest.mark.parametrize("fault", [faulty.dies, faulty.hangs_up, says(500), says(503)])
def test_a_server_that_recovers(fault: Fault, at: str, server: Server, tmp_path: Path) -> None:
    server.misbehave(fault, at=at, times=2)
    assert pull(server) == 0
    assert is_whole(tmp_path)


def test_a_server_that_says_when(server: Server, tmp_path: Path, capsys: Say) -> None:
    server.misbehave(says(429, Retry_After="1"), at=FILE, times=1)
    begun = time.monotonic()
    assert pull(server) == 0
    assert time.monotonic() - begun >= 1
    assert "goes on: the server answered 429 Too Many Requests" in capsys.readouterr().err


def test_credentials_that_expire_and_are_renewed(
    server: Server, tmp_path: Path, capsys: Say
) -> None:
    def guarded(handler: faulty.Handler, content: bytes) -> None:
        known = handler.headers.get("Authorization") == "Basic bWU6bWluZQ=="  # me:mine
        handler.part(content) if known else handler.answer(401, WWW_Authenticate="Basic")

    server.misbehave(guarded)
    for password, code in (("wasmine", 6), ("mine", 0)):
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {password}\n")
        assert pull(server) == code
        assert password not in capsys.readouterr().err
    assert is_whole(tmp_path)


def test_what_is_there_stays_where_the_next_cannot_be_had(server: Server, tmp_path: Path) -> None:
    assert pull(server) == 0
    release = shipped.made(tmp_path / "next", version="1.1.0", data=DATA[1:])
    shipped.publish(Directory(tmp_path / "registry"), tmp_path / "next", release)
    server.misbehave(faulty.alters, at=FILE)
    assert pull(server) == 6
    assert is_whole(tmp_path)


def test_what_has_arrived_is_not_asked_for_again(server: Server) -> None:
    server.misbehave(faulty.dies, at=FILE)
    assert pull(server) == 6
    have = Path(".m.pull/tree/model.bin").stat().st_size
    assert 0 < have < len(DATA)
    starts: list[str] = []

    def noted(handler: faulty.Handler, content: bytes) -> None:
        starts.append(handler.headers["Range"])
        handler.part(content)

    server.misbehave(noted, at=FILE)
    assert pull(server) == 0
    assert starts == [f"bytes={have}-"]
