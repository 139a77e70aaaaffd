"""What sets a step's processes apart from everything else: thin wrappers of system calls.

Linux has all of it. Elsewhere, each function says what is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LINUX = sys.platform.startswith("linux")

_KEPT = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "TMP", "VIRTUAL_ENV", "LD_LIBRARY_PATH"})
_KEPT_PREFIXES = ("LC_", "XDG_", "OMP_", "MKL_", "OPENBLAS_", "PYTHON", "CROSSCAST_")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

_PAGE = resource.getpagesize()
_HAS_CHILDREN_FILE = Path(f"/proc/self/task/{threading.get_native_id()}/children").exists()


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that workers get: paths, locale and thread counts; no tokens, no keys."""
    return {
        name: value
        for name, value in environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }


def hide(modules: Iterable[str]) -> None:
    """Have every import of these modules fail as if they were not installed."""
    for name in modules:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # the documented way


def become_subreaper() -> None:
    """Inherit the orphans among this process's descendants, daemons included.

    Not on macOS: there, a grandchild that has left its session and lost its parent is missed.
    """
    if LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """End this process at once when process `parent` does, however that ends.

    Outside Linux a thread looks twice a second, which needs a moment of the interpreter's lock.
    """
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def no_core_files() -> None:
    """Write no core file, and on Linux feed no crash handler either.

    A handler that core_pattern pipes to ignores a limit of 0; the kernel takes 1 for "no dump".
    """
    limit = 1 if LINUX else 0
    with contextlib.suppress(ValueError, OSError):  # a hard limit of 0 stays
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def cut_network() -> None:
    """Leave this process and its descendants without network but for loopback.

    Linux: a network namespace of its own, for root directly, for others within a user namespace
    that maps only themselves; nothing gets out, native code and sub-processes included. To be
    called before a second thread starts.
    Elsewhere, and where the kernel refuses (hardened containers): Python's own sockets refuse to
    connect or send, and names to resolve; native code and other programs are not stopped.
    """
    if not LINUX or not _new_network():
        sys.addaudithook(_refuse_network)


def children(pid: int) -> list[int]:
    """Processes whose parent `pid` is, zombies included."""
    if not _HAS_CHILDREN_FILE:
        return _children_of_any_system(pid)
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            text = (thread / "children").read_text(encoding="utf-8")
            found.extend(int(word) for word in text.split())
    except OSError:  # it, or one of its threads, is gone
        pass
    return found


def tree(pid: int) -> list[int]:
    """`pid` and its descendants."""
    found = [pid]
    for member in found:  # grows while it is walked
        found.extend(children(member))
    return found


def kill(pid: int) -> None:
    """SIGKILL the process, and the process group that it leads where it leads one."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, signal.SIGKILL)


class Gauge:
    """The memory of a process tree: PSS, which counts a page that n processes share 1/n to each.

    PSS costs milliseconds to read and RSS, never less than PSS, microseconds. So PSS is read only
    when RSS has grown or is over the limit. Where there is no PSS, RSS it is.
    peak: the most seen, in bytes.
    """

    _GROWTH = 8 * 1024**2

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.peak = 0
        self._highest = 0

    def over(self, pids: Iterable[int]) -> bool:
        """Measure; whether the processes hold more than the limit."""
        pids = list(pids)
        resident = sum(map(_resident, pids))
        if resident <= min(self.limit, self._highest + self._GROWTH):
            return False
        self._highest = max(self._highest, resident)
        now = sum(map(_proportional, pids))
        self.peak = max(self.peak, now)
        return now > self.limit


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    kill(os.getpid())


def _new_network() -> bool:
    uid, gid = os.getuid(), os.getgid()
    if _unshare(_CLONE_NEWNET):
        _loopback_up()
        return True
    # Tried in a child first: half a user namespace (made, but not mapped) could not be left again.
    if not _succeeds_in_child(lambda: _private_network(uid, gid)):
        return False
    _private_network(uid, gid)
    return True


def _private_network(uid: int, gid: int) -> None:
    if not _unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        raise PermissionError(errno.EPERM, "unshare")
    Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="utf-8")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="utf-8")
    _loopback_up()


def _unshare(flags: int) -> bool:
    return bool(ctypes.CDLL(None, use_errno=True).unshare(flags) == 0)


def _loopback_up() -> None:
    request = struct.pack("16sH22x", b"lo", _IFF_UP)
    # A container may grant the one right and not the other: then there is no loopback.
    with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _succeeds_in_child(attempt: Any) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
        except BaseException:  # noqa: BLE001  the exit code is all that the parent reads
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        family, address = args[0].family, args[1]
        inet = family in (socket.AF_INET, socket.AF_INET6)
        if inet and address and not _is_loopback(str(address[0])):
            raise OSError(errno.ENETUNREACH, "a step has no network", str(address[0]))
    elif event == "socket.getaddrinfo" and args[0] and not _is_loopback(_text(args[0])):
        raise socket.gaierror(socket.EAI_FAIL, f"a step has no network to find {_text(args[0])}")


def _text(host: str | bytes) -> str:
    return host if isinstance(host, str) else host.decode(errors="replace")


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _resident(pid: int) -> int:
    if not LINUX:
        return _resident_on_any_system(pid)
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * _PAGE


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


def _children_of_any_system(pid: int) -> list[int]:
    import psutil  # only where /proc does not say it

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _resident_on_any_system(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
