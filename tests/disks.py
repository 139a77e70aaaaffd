"""Disks that are full, for tests of what is said then."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes at `path`, which is made."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root, to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def grow(path: Path, size: int) -> None:
    """Have a small disk be of another size from now on."""
    subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)
