"""A web server that misbehaves on purpose, on the loopback interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[["Handler", bytes], None]
"""Answers a request for what has these bytes."""


class Handler(BaseHTTPRequestHandler):
    """Serves the files below `Server.root`, whole, in parts, or as `Server.fault` has it."""

    server: Server

    def do_GET(self) -> None:
        """Answer."""
        path = self.server.root / self.path.lstrip("/")
        self.server.asked.append(self.path)
        content = path.read_bytes() if path.is_file() else b""
        if self.path.endswith(self.server.at) and self.server.times > 0:
            self.server.times -= 1
            self.server.fault(self, content)
        elif path.is_file():
            self.part(content)
        else:
            self.answer(404)

    do_HEAD = do_PUT = do_POST = do_GET

    def part(self, content: bytes) -> None:
        """The bytes, or those that are asked for."""
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        ranges = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.answer(206 if start else 200, content[start:], **(ranges if start else {}))

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        """A whole answer; headers' names have `_` for `-`."""
        self.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """fault: what is done about requests whose path ends with `at`, so many `times`. asked: paths
    of all requests.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.asked: list[str] = []
        self.fault: Fault = dies
        self.at, self.times = "", 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def misbehave(self, fault: Fault, *, at: str = "", times: int = 1_000_000) -> None:
        """From now on."""
        self.fault, self.at, self.times = fault, at, times


@contextmanager
def running(root: Path) -> Iterator[Server]:
    """The server, which is well at first."""
    with Server(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def dies(handler: Handler, content: bytes) -> None:
    """Half of what was promised, then nothing."""
    start = int(handler.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
    left = content[start:]
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(left)))
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.end_headers()
    handler.wfile.write(left[: len(left) // 2])


def truncates(handler: Handler, content: bytes) -> None:
    """Half of it, as if it were all."""
    handler.answer(200, content[: len(content) // 2])


def alters(handler: Handler, content: bytes) -> None:
    """As many bytes, one of them another."""
    handler.answer(200, content[:-1] + bytes([content[-1] ^ 1]))


def floods(handler: Handler, content: bytes) -> None:
    """Ten times as much, without saying how much."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(content * 10)


def hangs_up(handler: Handler, content: bytes) -> None:
    """Nothing at all."""


def babbles(handler: Handler, content: bytes) -> None:
    """What is no HTTP."""
    handler.wfile.write(b"220 smtp.example ready\r\n")


def loops(handler: Handler, content: bytes) -> None:
    """Go where you are."""
    handler.answer(302, Location=handler.path)


def wanders(handler: Handler, content: bytes) -> None:
    """Go where no one is."""
    handler.answer(302, Location="ftp://elsewhere/x")


def says(code: int, body: bytes = b"", **headers: str) -> Fault:
    """That status, and no more."""
    return lambda handler, content: handler.answer(code, body, **headers)
