from __future__ import annotations

import os
import subprocess
import sys

import pytest

from crosscast.pipeline.worker import isolation

REFUSED = """
import socket
from crosscast.pipeline.worker import isolation
isolation._new_network = lambda: False
isolation.cut_network()
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
socket.getaddrinfo("localhost", 80)
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=5),
    lambda: socket.create_connection(("pypi.org", 80), timeout=5),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        attempt()
    except OSError as error:
        assert "a step has no network" in str(error), error
    else:
        raise AssertionError("got out")
"""

UNPRIVILEGED = """
import encodings.idna, os, socket
from crosscast.pipeline.worker import isolation
os.setgid(65534), os.setuid(65534)
isolation._prctl(4, 1)  # owner of its /proc again, as after an exec
assert isolation._new_network()
assert (os.getuid(), os.getgid()) == (65534, 65534)
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    assert error.errno == 101, error
"""


def test_secrets_are_scrubbed():
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "PYTHONPATH": "/x",
        "CROSSCAST_X": "1",
        "MKL_NUM_THREADS": "2",
        "AWS_SECRET_ACCESS_KEY": "s",
        "GITHUB_TOKEN": "s",
        "PATH_TO_KEY": "s",
        "https_proxy": "http://user:password@host",
    }
    assert list(isolation.scrubbed(environ)) == [
        "PATH",
        "LC_ALL",
        "PYTHONPATH",
        "CROSSCAST_X",
        "MKL_NUM_THREADS",
    ]


def test_sockets_refuse_where_the_kernel_does_not():
    subprocess.run([sys.executable, "-c", REFUSED], check=True, timeout=60)


@pytest.mark.skipif(not isolation.LINUX or os.getuid() != 0, reason="needs root to become another")
def test_a_network_of_its_own_without_rights():
    # What the sandbox lacks (user namespaces) or hides (this interpreter), it lacks for builds too.
    probe = ["setpriv", "--reuid=65534", "--clear-groups", "unshare", "--user", "--net", "true"]
    if subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here")
    subprocess.run([sys.executable, "-c", UNPRIVILEGED], check=True, timeout=60)


def test_the_tree_of_a_process():
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=-1) as process:
        sleeper = int(process.stdout.readline())
        assert isolation.tree(process.pid) == [process.pid, sleeper]
        assert process.pid in isolation.children(os.getpid())
        os.kill(sleeper, 9)


def test_children_are_found_without_proc(monkeypatch):
    with subprocess.Popen(["sleep", "1000"]) as process:
        monkeypatch.setattr(isolation, "_HAS_CHILDREN_FILE", False)
        assert process.pid in isolation.children(os.getpid())
        isolation.kill(process.pid)
    assert isolation.children(process.pid) == []


def test_a_gauge_counts_shared_pages_once():
    code = "import os, time; x = b'x' * (64 << 20); os.fork(); print(); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-u", "-c", code], stdout=-1) as process:
        process.stdout.readline(), process.stdout.readline()
        pids = isolation.tree(process.pid)
        assert len(pids) == 2
        generous, strict = isolation.Gauge(1 << 40), isolation.Gauge(32 << 20)
        assert not generous.over(pids)
        assert strict.over(pids)
        if isolation.LINUX:
            assert 64 << 20 < generous.peak < 120 << 20
        for pid in pids:
            isolation.kill(pid)
    assert not generous.over(pids)
