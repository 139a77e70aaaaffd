"""Overlays: directories of exactly pinned, hash-checked distributions that only one toolchain's
workers see, in front of their path. Each is built once and named by its lock file's content.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from crosscast.pipeline.errors import ToolchainError

Run = Callable[[Sequence[str]], subprocess.CompletedProcess[str]]

_LAST_LINES = 6
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s\\;]+)", re.MULTILINE)


def requirements(lock: Path) -> dict[str, str]:
    """The distributions that a lock file pins, with their versions."""
    return dict(_REQUIREMENT.findall(lock.read_text(encoding="utf-8")))


def overlay_directory(lock: Path, cache: Path) -> Path:
    """Where the overlay of a lock file is, or will be: to be put on the path of its workers.

    It ends in `site-packages`, by which code in it is told from the user's own.
    """
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return cache.absolute() / "overlays" / f"{lock.stem}-{digest}-{python}" / "site-packages"


def installed(lock: Path, cache: Path) -> bool:
    """Whether the overlay is there; it appears whole or not at all."""
    return overlay_directory(lock, cache).is_dir()


def captured(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command, its output captured as one text."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def build(lock: Path, cache: Path, run: Run = captured) -> Path:
    """Install the overlay where it is missing; its directory.

    Needs the package index, or what pip is configured to use for it. Builders on one cache wait
    for each other. Raises ToolchainError with pip's last lines where it fails.
    """
    directory = overlay_directory(lock, cache)
    home = directory.parent
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_name(home.name + ".lock")):
        if not directory.is_dir():
            _install(lock, home, run)
    return directory


def _install(lock: Path, home: Path, run: Run) -> None:
    for abandoned in home.parent.glob(f"{home.name}.staging-*"):  # of builds that were killed
        shutil.rmtree(abandoned, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{home.name}.staging-", dir=home.parent))
    try:
        done = run(_command(lock, staging / "site-packages"))
        if done.returncode != 0:
            raise _failure(lock, done.stdout, home)
        staging.chmod(0o755)
        shutil.rmtree(home, ignore_errors=True)  # there, but without its site-packages
        staging.replace(home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _command(lock: Path, target: Path) -> list[str]:
    options = "--quiet --no-input --disable-pip-version-check --no-deps --ignore-requires-python"
    return [
        *(sys.executable, "-m", "pip", "install", *options.split(), "--require-hashes"),
        *("--only-binary", ":all:", "--target", str(target), "-r", str(lock)),
    ]


def _failure(lock: Path, output: str, home: Path) -> ToolchainError:
    pinned = " ".join(f"{name} {version}" for name, version in requirements(lock).items())
    lines = [line for line in output.strip().splitlines() if line.strip()][-_LAST_LINES:]
    said = "\n".join(f"    {line}" for line in lines)
    command = shlex.join(_command(lock, home / "site-packages"))
    return ToolchainError(
        f"the overlay {lock.stem} ({pinned}) could not be installed; pip said:\n{said}",
        fix="it needs the package index once: `crosscast doctor --build-overlays` builds it ahead "
        f"where there is network, and a cache that is copied over serves as well; or by hand:\n"
        f"    {command}",
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
