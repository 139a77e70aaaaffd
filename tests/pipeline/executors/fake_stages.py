"""A stage that misbehaves as its option `do` says, for real."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.stages import StageResult

MIB = 1024**2


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Do what `options["do"]` names, with the other options as arguments."""
    arguments = {name: value for name, value in options.items() if name != "do"}
    notes = globals()[options["do"]](out=out, **arguments)
    return StageResult(dependencies=tuple(map(str, inputs.values())), notes=notes or {})


def write(*, out: Path, text: str = "made") -> None:
    (out / "file").write_text(text)


def nap(*, out: Path, seconds: float) -> None:
    time.sleep(seconds)
    write(out=out)


def surroundings(*, out: Path) -> dict[str, Any]:
    import numpy as np

    Path("litter").write_text("x")
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"x")
    return {
        "environment": dict(os.environ),
        "first environment": Path("/proc/self/environ").read_text(),
        "cwd": str(Path.cwd()),
        "temporary": file.name,
        "beside": str(out.parent),
        "random": [random.random(), float(np.random.rand())],
        "hash": hash("text"),
        "stdin": sys.stdin.read(),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "leader": os.getsid(0) == os.getpid(),
    }


def overlaid(*, out: Path, module: str) -> dict[str, Any]:
    return {"file": __import__(module).__file__}


def modules(*, out: Path) -> dict[str, Any]:
    return {"names": sorted(sys.modules)}


def segfault(*, out: Path) -> None:
    sys.stdout.write("about to crash\n")
    ctypes.string_at(0)


def abort(*, out: Path) -> None:
    os.abort()


def killed(*, out: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(*, out: Path) -> NoReturn:
    while True:
        time.sleep(0.01)


def hang_in_c(*, out: Path) -> None:
    """Never give the interpreter's lock back."""
    (out / "hanging").touch()
    ctypes.PyDLL(None).sleep(1000)


def hang_deaf(*, out: Path) -> None:
    """Hang, and have every signal ignored that can be."""
    for number in (signal.SIGABRT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hang(out=out)


def eat(*, out: Path, mib: int = 4096) -> None:
    held = []
    for _ in range(mib // 16):
        held.append(b"x" * 16 * MIB)
        time.sleep(0.01)
    hang(out=out)


def eat_below(*, out: Path) -> None:
    """Have a grandchild do it."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import fake_stages"
    subprocess.run([sys.executable, "-c", f"{code}; fake_stages.eat(out=None)"], check=True)
    hang(out=out)


def raise_memory_error(*, out: Path) -> None:
    b"x" * (1 << 60)


def leave(*, out: Path, code: Any) -> None:
    sys.stdout.write("something is not right\n")
    sys.exit(code)


def leave_at_once(*, out: Path, code: int) -> None:
    os.write(1, b"the converter's last words\n")
    os._exit(code)


def fork_and_return(*, out: Path) -> dict[str, Any]:
    """A fork of the stage runs on into the worker's own code."""
    return {"in": "child" if os.fork() == 0 else "parent"}


def shout(*, out: Path) -> None:
    for _ in range(20):
        os.write(1, b"x" * (MIB - 1) + b"\n")
    subprocess.run(["echo", "from a sub-process"], check=True)


def leave_processes(*, out: Path) -> dict[str, Any]:
    """A plain child, one in a session of its own, a daemon, and a daemon that is a mere fork."""
    command = ["sleep", "1000"]
    subprocess.Popen(command)
    subprocess.Popen(command, start_new_session=True)
    subprocess.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & exit 0"], check=True)
    between = os.fork()
    if between == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.waitpid(between, 0)
    return {}


def leave_processes_and_hang(*, out: Path) -> None:
    leave_processes(out=out)
    (out / "hanging").touch()
    hang(out=out)


def leave_processes_and_crash(*, out: Path) -> None:
    leave_processes(out=out)
    segfault(out=out)


def connect(*, out: Path, port: int) -> None:
    socket.create_connection(("192.0.2.1", port), timeout=5).close()


def resolve(*, out: Path) -> None:
    socket.create_connection(("pypi.org", 443), timeout=5).close()


def talk_to_itself(*, out: Path) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            client.sendall(b"hello")
        with server.accept()[0] as accepted:
            return {"heard": accepted.recv(5).decode()}


def reach(*, out: Path, port: int) -> None:
    """Connect to a server outside: the host's loopback is not the step's."""
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def fill_disk(*, out: Path) -> None:
    try:
        with Path("/dev/full").open("w") as file:
            file.write("x" * MIB)
    except OSError as error:
        raise RuntimeError("the writer failed") from error


def fill_disk_natively(*, out: Path) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:664] No space left on device")


def user_error(*, out: Path) -> None:
    raise StageError("operator Foo is not supported", fix="use Bar")


def plain_error(*, out: Path) -> None:
    raise ValueError("\n".join(f"line {number}" for number in range(20)))


def lacks_module(*, out: Path) -> None:
    import not_there_at_all  # noqa: F401


def bad_notes(*, out: Path) -> dict[str, Any]:
    return {"out": out}
