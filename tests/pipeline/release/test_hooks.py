"""Hooks: what they are given, and that their failures are told without their secrets."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from crosscast.pipeline import web
from crosscast.pipeline.config.schedule import Hook, Hooks
from crosscast.pipeline.release import hooks
from crosscast.pipeline.release.hooks import Outcome, tell

PUBLISHED = Outcome(
    event="release", model="m", code=0, said="m 1.0.1 is published", version="1.0.1", log="/l"
)
FAILED = Outcome(event="release", model="m", code=4, said="nothing is released")


class Listener:
    """A web server that remembers what it was sent. answers: the codes that it gives in turn."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[Any] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.got.append(json.loads(body))
                self.send_response(listener.answers.pop(0) if listener.answers else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/secret"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    thread = Thread(target=listener.server.serve_forever, args=(0.01,))
    thread.start()
    yield listener
    listener.server.shutdown()
    thread.join()
    listener.server.server_close()


def told(hook: Hook, outcome: Outcome, folder: Path) -> list[tuple[str, str]]:
    asked = Hooks(on_success=hook) if outcome.code == 0 else Hooks(on_failure=hook)
    return tell(asked, outcome, folder=folder, sleep=lambda _: None)


def script(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "hook.py").write_text(f"import json, os, sys, time\n{text}\n")
    return [sys.executable, "hook.py", "a secret"]


def test_a_command_is_given_the_outcome_twice(tmp_path: Path) -> None:
    text = (
        "given = {n: v for n, v in os.environ.items() if n.startswith('CROSSCAST_')}\n"
        "open('told.json', 'w').write(json.dumps([json.load(sys.stdin), given]))"
    )
    assert told(Hook(command=script(tmp_path, text)), PUBLISHED, tmp_path) == []
    document, variables = json.loads((tmp_path / "told.json").read_text())
    assert document == {
        "schema": 1,
        "status": "published",
        "event": "release",
        "model": "m",
        "code": 0,
        "said": "m 1.0.1 is published",
        "version": "1.0.1",
        "registry": "",
        "channel": "",
        "log": "/l",
    }
    assert {
        "CROSSCAST_EVENT": "release",
        "CROSSCAST_MODEL": "m",
        "CROSSCAST_VERSION": "1.0.1",
        "CROSSCAST_STATUS": "published",
        "CROSSCAST_EXIT_CODE": "0",
        "CROSSCAST_LOG": "/l",
    }.items() <= variables.items()


def test_each_outcome_has_its_own_hook(tmp_path: Path) -> None:
    touch = script(tmp_path, "open('touched', 'w')")
    assert tell(Hooks(on_success=Hook(command=touch)), FAILED, folder=tmp_path) == []
    assert not (tmp_path / "touched").exists()
    assert told(Hook(command=touch), FAILED, tmp_path) == []
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("print('no such room'); sys.exit(3)", "exit code 3: no such room"),
        ("sys.exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_a_command_that_fails_is_told(tmp_path: Path, text: str, why: str) -> None:
    found = told(Hook(command=script(tmp_path, text)), FAILED, tmp_path)
    assert found == [("on_failure.command", why)]


def test_a_command_that_is_not_there_is_told_without_its_arguments(tmp_path: Path) -> None:
    ((key, why),) = told(Hook(command=["./absent.sh", "a secret"]), PUBLISHED, tmp_path)
    assert key == "on_success.command"
    assert why == "it cannot be started: No such file or directory"


def test_a_command_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LIMIT", 0.5)
    started = time.monotonic()
    text = "import subprocess; subprocess.run(['sleep', '30'])"
    ((_, why),) = told(Hook(command=script(tmp_path, text)), PUBLISHED, tmp_path)
    assert why == "it took longer than 0.5 seconds"
    assert time.monotonic() - started < 20


def test_a_webhook_is_sent_the_outcome(tmp_path: Path, listener: Listener) -> None:
    assert told(Hook(webhook=listener.url), FAILED, tmp_path) == []
    assert listener.got == [FAILED.to_json()]
    assert listener.got[0]["status"] == "failed"


def test_a_webhook_is_tried_again(tmp_path: Path, listener: Listener) -> None:
    listener.answers = [503, 429]
    assert told(Hook(webhook=listener.url), FAILED, tmp_path) == []
    assert len(listener.got) == 3


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (500, web.TRIES)])
def test_a_webhook_that_refuses_is_told_without_its_url(
    tmp_path: Path, listener: Listener, code: int, tries: int
) -> None:
    listener.answers = [code] * 10
    ((key, why),) = told(Hook(webhook=listener.url), FAILED, tmp_path)
    assert key == "on_failure.webhook"
    assert why.startswith(f"127.0.0.1: the server answered {code}")
    assert "secret" not in why
    assert len(listener.got) == tries


def test_a_url_that_cannot_be_used_is_not_told(tmp_path: Path) -> None:
    ((_, why),) = told(Hook(webhook="http://[secret/secret"), FAILED, tmp_path)
    assert "secret" not in why


def test_one_hook_may_be_both(tmp_path: Path, listener: Listener) -> None:
    command = script(tmp_path, "sys.exit(1)")
    found = told(Hook(command=command, webhook=listener.url), FAILED, tmp_path)
    assert found == [("on_failure.command", "exit code 1")]
    assert listener.got == [FAILED.to_json()]
