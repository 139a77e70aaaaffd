"""Files that are not what they are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.impostors import refuse_impostors

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (LFS, "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", r"is a web page \(HTML\)"),
        (b"Not Found\nsee elsewhere", "is text; it begins 'Not Found'"),
        (b"PK\x03\x04" + bytes(400), "is truncated"),
    ],
)
def test_impostors_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(StageError, match=f"weights file .*w.pth {message}") as caught:
        refuse_impostors(path, what="weights file", fix="save weights")
    assert caught.value.fix


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="does not exist"):
        refuse_impostors(tmp_path / "no", what="weights file", fix="")
    with pytest.raises(StageError, match="is a directory"):
        refuse_impostors(tmp_path, what="weights file", fix="")


def test_binary_files_pass(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"\x80\x02\x00\xff")
    refuse_impostors(path, what="weights file", fix="")
