"""Files and directories that are on the disk, whole, before they have their names."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crosscast.pipeline import staging


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the disk refuse what is written."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)


def test_a_file_is_the_new_one(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        staging.replace_file(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_file_stays_the_old_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    failing(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        staging.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_filesystem_that_cannot_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, errno.EINVAL)
    staging.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
