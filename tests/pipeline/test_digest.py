from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosscast.pipeline import digest as digests
from crosscast.pipeline.digest import Entry, FileDigests, NotPlainError, measure, of_entries
from crosscast.pipeline.errors import ConfigError

LONG_AGO = time.time() - 3600
ENTRIES = st.dictionaries(
    st.text(min_size=1),
    st.builds(
        Entry,
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        size=st.integers(0, 2**40),
        stamp=st.tuples(*[st.integers(0, 2**63)] * 4),
    ),
    max_size=4,
)


class Cache(dict[str, Any]):
    def digests(self) -> FileDigests:
        return FileDigests(load=self.get, save=self.__setitem__)


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed, in order."""
    names: list[str] = []
    real = digests.hashlib.file_digest

    def spy(file: Any, name: str) -> Any:
        names.append(Path(file.name).name)
        return real(file, name)

    monkeypatch.setattr(digests.hashlib, "file_digest", spy)
    return names


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that were just written be old."""
    real = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: real() + 60 * 10**9)


def test_digest_of_a_file_is_its_sha256(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert cache.digests().of(tmp_path / "weights") == expected
    assert digests.file_sha256(tmp_path / "weights") == expected


@pytest.mark.usefixtures("later")
def test_a_file_is_hashed_once(tmp_path: Path, cache: Cache, hashed: list[str]) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    assert cache.digests().of(tmp_path / "weights") == cache.digests().of(tmp_path / "weights")
    assert hashed == ["weights"]


def test_a_file_that_was_just_written_is_hashed_again(
    tmp_path: Path, cache: Cache, hashed: list[str]
) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    os.utime(tmp_path / "weights", (LONG_AGO, LONG_AGO))  # its ctime still says when
    cache.digests().of(tmp_path / "weights")
    cache.digests().of(tmp_path / "weights")
    assert hashed == ["weights", "weights"]


@pytest.mark.usefixtures("later")
def test_an_edit_with_the_old_size_and_mtime_is_noticed(tmp_path: Path, cache: Cache) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    os.utime(path, (LONG_AGO, LONG_AGO))
    before = cache.digests().of(path)
    time.sleep(0.02)  # a tick of the filesystem's clock
    path.write_bytes(b"abd")
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert cache.digests().of(path) != before


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("garbage", [None, [], 3, {"": 3}, {"": {"sha256": "x"}}, {"x": {}}])
def test_garbage_in_the_cache_is_no_entry(tmp_path: Path, cache: Cache, garbage: Any) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    cache[str(path)] = garbage
    assert cache.digests().of(path) == digests.file_sha256(path)


@pytest.mark.usefixtures("later")
def test_only_the_changed_file_of_a_directory_is_hashed_again(
    tmp_path: Path, cache: Cache, hashed: list[str]
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", "sub/c"):
        (tmp_path / name).write_text(name)
    before = cache.digests().of(tmp_path)
    (tmp_path / "sub" / "b").write_text("changed")
    assert cache.digests().of(tmp_path) != before
    assert hashed == ["a", "b", "c", "b"]


def test_names_count_in_a_directory(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "a").write_text("same")
    before = cache.digests().of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert cache.digests().of(tmp_path) != before


def test_links_of_the_user_are_followed_but_not_in_circles(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "real").write_text("x")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    before = cache.digests().of(tmp_path / "data")
    (tmp_path / "real").write_text("y")
    assert cache.digests().of(tmp_path / "data") != before


def test_what_is_not_there_is_missing(tmp_path: Path, cache: Cache) -> None:
    assert cache.digests().of(tmp_path / "gone") == "missing"
    (tmp_path / "file").touch()
    assert cache.digests().of(tmp_path / "file" / "under") == "missing"


def test_what_cannot_be_read_is_an_error(tmp_path: Path, cache: Cache) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe is neither a file nor a directory"):
        cache.digests().of(tmp_path / "pipe")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"cannot read .*dangling"):
        cache.digests().of(tmp_path / "data")


def test_a_tree_of_ours_has_no_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(NotPlainError, match="link is neither"):
        measure(tmp_path)


@given(ENTRIES, ENTRIES)
def test_equal_trees_and_only_they_have_equal_digests(
    one: dict[str, Entry], other: dict[str, Entry]
) -> None:
    def content(entries: dict[str, Entry]) -> dict[str, tuple[str, int]]:
        return {name: (entry.sha256, entry.size) for name, entry in entries.items()}

    assert (of_entries(one) == of_entries(other)) == (content(one) == content(other))
    assert of_entries(one) == of_entries(dict(reversed(one.items())))


@given(ENTRIES)
def test_entries_survive_json(entries: dict[str, Entry]) -> None:
    assert digests.entries_from_json(digests.entries_to_json(entries)) == entries
