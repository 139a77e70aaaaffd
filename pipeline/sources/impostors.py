"""What commonly lies where a model file should: nothing, pointers, web pages, half files. Pure."""

from __future__ import annotations

import zipfile
from pathlib import Path

from crosscast.pipeline.errors import StageError


def refuse_impostors(path: Path, *, what: str, fix: str) -> None:
    """Raise StageError where the file is none that a framework should be asked to read.

    what: the file's role in the message ("weights file"). fix: what to do where it is text.
    """
    if not path.exists():
        raise StageError(f"{what} {path} does not exist", fix="check its path in the config")
    if path.is_dir():
        raise StageError(f"{what} {path} is a directory", fix="name the file in it")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise StageError(f"{what} {path} is empty", fix="fetch or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise StageError(
            f"{what} {path} is a Git LFS pointer, not the file itself",
            fix="run `git lfs pull` where it was cloned",
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise StageError(
            f"{what} {path} is a web page (HTML)",
            fix="the download gave a page in place of the file: fetch it again by its direct link",
        )
    if _is_text(head):
        raise StageError(f"{what} {path} is text; it begins {_first_line(head)!r}", fix=fix)
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        raise StageError(
            f"{what} {path} is truncated: a zip archive without its end",
            fix="fetch or save it again, and compare its size with the original's",
        )


def _is_text(head: bytes) -> bool:
    return all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head)


def _first_line(head: bytes) -> str:
    return head.decode("ascii").strip().partition("\n")[0][:60]
