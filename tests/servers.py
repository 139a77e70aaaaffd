"""Real servers and clients of registries for the tests, on the loopback interface.

`python tests/servers.py` fetches those programs that are not installed: Debian's packages are
unpacked below `.cache/servers`, so that nobody has to be root.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

KEPT = Path(__file__).parents[1] / ".cache" / "servers"
UNPACKED = KEPT / "debian"
DEBIAN = {
    **{name: name for name in ("docker-registry", "lighttpd", "skopeo")},
    "systemd-analyze": "systemd",
}
"""Packages by the program that they have."""

PATIENCE = 30.0
KINDS = ("", ".grpc")
"""What each part of SeaweedFS listens for has a port."""

USER, PASSWORD = "someone", "a secret word"
HASHED = "$2y$05$MwmbqPeyvE6YJ9qrTzL3I.8JmnvOXC5wOF85JryKpzi5elp6Q2MO."
"""PASSWORD as htpasswd keeps it (bcrypt)."""


def program(name: str) -> str:
    """The path of a program; it is fetched if it has to be."""
    unpacked = [str(UNPACKED / "usr" / folder) for folder in ("bin", "sbin")]
    places = os.pathsep.join((os.environ["PATH"], str(Path(sys.executable).parent), *unpacked))
    found = shutil.which(name, path=places)
    if found is None and name in DEBIAN:
        fetch([*DEBIAN.values()])
        found = shutil.which(name, path=places)
    assert found is not None, f"{name} is not installed, and could not be fetched"
    return found


def environment() -> dict[str, str]:
    """What fetched programs need to find their libraries."""
    found = (UNPACKED / "usr" / "lib").glob("*-linux-gnu")
    libraries = [str(path / own) for path in found for own in ("", "systemd")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


def fetch(packages: Sequence[str]) -> None:
    """Unpack Debian packages, with those of what they need that this machine has not."""
    KEPT.mkdir(parents=True, exist_ok=True)
    options: list[str] = []
    try:
        names = _needed(packages, options)
    except subprocess.CalledProcessError:  # no lists yet, or old ones
        options = _own_lists()
        names = _needed(packages, options)
    downloads = KEPT / "downloads"
    downloads.mkdir(exist_ok=True)
    _run(["apt-get", *options, "-q", "download", *names], cwd=downloads)
    for package in downloads.glob("*.deb"):
        _run(["dpkg", "-x", str(package), str(UNPACKED)], cwd=KEPT)
    shutil.rmtree(downloads)


def _needed(packages: Sequence[str], options: Sequence[str]) -> list[str]:
    """Those packages, and the libraries that they need, that are not installed."""
    words = ["install", "--simulate", "--no-install-recommends", *packages]
    said = _run(["apt-get", *options, *words], cwd=KEPT)
    names = [line.split()[1] for line in said.splitlines() if line.startswith("Inst ")]
    return [name for name in names if name in packages or name.startswith("lib")]


def _own_lists() -> list[str]:
    """apt's options for lists of packages of our own, which are brought up to date."""
    lists = KEPT / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (lists / name).mkdir(parents=True, exist_ok=True)
    options = [
        *("-o", f"Dir::State::lists={lists / 'lists'}"),
        *("-o", f"Dir::Cache={lists / 'cache'}"),
        *("-o", "Debug::NoLocking=1"),
    ]
    _run(["apt-get", *options, "-q", "update"], cwd=KEPT)
    return options


def _run(words: Sequence[str], *, cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def free_ports(number: int) -> list[int]:
    """Ports of the loopback interface that nobody has."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


@contextmanager
def running(words: Sequence[str], *, log: Path, ready: Mapping[int, str]) -> Iterator[None]:
    """A server, while it is needed. ready: a path that it answers, by port, once it is up."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment()
        )
    try:
        for port, path in ready.items():
            _wait(process, port, path, log)
        yield
    finally:
        process.kill()  # what it has is thrown away, and some take long to end
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            if _ask(port, "GET", path) < 500:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not up: {process.args!r}\n{log.read_text(errors='replace')[-4000:]}")


def _ask(port: int, method: str, path: str) -> int:
    """The status of the answer to a request without a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, headers={"Content-Length": "0"})
    status = connection.getresponse().status
    connection.close()
    return status


@contextmanager
def http_server(folder: Path, log: Path) -> Iterator[str]:
    """A static web server that knows ranges, lighttpd; gives its url."""
    (port,) = free_ports(1)
    settings = {"document-root": str(folder), "bind": "127.0.0.1", "port": port}
    config = log.with_suffix(".conf")
    config.write_text("".join(f"server.{k} = {json.dumps(v)}\n" for k, v in settings.items()))
    modules = UNPACKED / "usr" / "lib" / "lighttpd"
    words = [program("lighttpd"), "-D", "-f", str(config)]
    words += ["-m", str(modules)] if modules.exists() else []
    with running(words, log=log, ready={port: "/"}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def oci(root: Path) -> Iterator[str]:
    """Debian's docker-registry, with USER and PASSWORD; gives its host and port."""
    (port,) = free_ports(1)
    (root / "htpasswd").write_text(f"{USER}:{HASHED}\n")
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": str(root / "blobs")},
            "delete": {"enabled": True},
        },
        "auth": {"htpasswd": {"realm": "tests", "path": str(root / "htpasswd")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of these tests"},
    }
    (root / "config.yml").write_text(json.dumps(config))
    words = [program("docker-registry"), "serve", str(root / "config.yml")]
    with running(words, log=root / "log.txt", ready={port: "/v2/"}):
        yield f"127.0.0.1:{port}"


def docker_config(folder: Path, host: str, *, password: str = PASSWORD) -> Path:
    """A folder with the `config.json` that `docker login` would write."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return folder


@contextmanager
def s3(root: Path) -> Iterator[dict[str, str]]:
    """SeaweedFS with a bucket `models`; gives the AWS_* variables of who may use it."""
    parts = [f"{name}.port{kind}" for name in ("master", "volume", "filer", "s3") for kind in KINDS]
    ports = dict(zip(parts, free_ports(len(parts)), strict=True))
    identity = {"accessKey": USER, "secretKey": PASSWORD}
    config = {"identities": [{"name": USER, "credentials": [identity], "actions": ["Admin"]}]}
    (root / "s3.json").write_text(json.dumps(config))
    words = [
        *(program("weed"), "-logdir", str(root), "server", f"-dir={root}", "-filer", "-s3"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={root / 's3.json'}"),
        *("-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
        *(f"-{part}={port}" for part, port in ports.items()),
    ]
    ready = {ports["filer.port"]: "/", ports["s3.port"]: "/status"}
    with running(words, log=root / "log.txt", ready=ready):
        _ask(ports["filer.port"], "POST", "/buckets/models/")
        yield {
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
        }


if __name__ == "__main__":
    for name in DEBIAN:
        print(program(name))  # noqa: T201
