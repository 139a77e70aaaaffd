"""The state on disk: whole at any time, bounded, and never believed when it is broken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.schedule.state import KEPT, Book, Entry, Job, State, books

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(*entries: Entry) -> Job:
    return Job(cron="0 3 * * *", zone="UTC", decided=NOW, history=entries)


def state(book: Book, *entries: Entry) -> State:
    return State(config=str(book.folder), model="m", jobs={"release": job(*entries)})


@pytest.fixture
def book(tmp_path: Path) -> Book:
    book = Book.of(tmp_path / "m.yaml", model="m")
    book.folder.mkdir(parents=True)
    return book


def run(number: int, log: str = "") -> Entry:
    return Entry(status="published", scheduled=NOW + timedelta(hours=number), started=NOW, log=log)


def test_it_reads_what_it_has_written(book: Book) -> None:
    assert book.read() is None
    written = state(book, run(1), Entry(status="missed", scheduled=NOW, times=3))
    book.write(written)
    assert book.read() == written
    assert [it.folder for it in books()] == [book.folder]


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_half_a_file_is_no_state(book: Book, cut: int) -> None:
    book.write(state(book, run(1)))
    file = book.folder / "state.json"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"state\.json cannot be used: "):
        book.read()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema_version": 1', '"schema_version": 2'),
        ('"published"', '"sold"'),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00"),
        ('"decided"', '"undecided"'),
    ],
)
def test_another_schema_is_no_state(book: Book, old: str, new: str) -> None:
    book.write(state(book, run(1)))
    file = book.folder / "state.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"state\.json cannot be used: "):
        book.read()


def test_a_directory_in_its_place_is_no_state(book: Book) -> None:
    (book.folder / "state.json").mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
        book.read()


def test_a_write_that_fails_leaves_the_old_one(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(book, run(1))
    book.write(before)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        book.write(state(book, run(2)))
    assert book.read() == before


def test_a_place_that_cannot_be_written_is_told(book: Book) -> None:
    (book.folder / "state.json").mkdir()
    (book.folder / "state.json" / "x").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        book.write(state(book))


def test_the_history_is_bounded_and_its_logs_with_it(book: Book) -> None:
    kept = job()
    for number in range(KEPT + 5):
        log = book.log("release", NOW + timedelta(seconds=number))
        log.parent.mkdir(exist_ok=True)
        log.touch()
        kept = kept.add(run(number, str(log)))
    book.write(State(config="c", model="m", jobs={"release": kept}))
    assert len(kept.history) == KEPT
    assert kept.history[0].scheduled == NOW + timedelta(hours=5)
    assert sorted(map(str, book.folder.glob("logs/*"))) == [entry.log for entry in kept.history]


def test_times_that_nothing_was_done_at_are_counted_in_one_entry() -> None:
    times = [NOW + timedelta(hours=hour) for hour in range(5)]
    counted = job().none_at("missed", times[:2]).none_at("missed", times[2:3])
    assert counted.history == (Entry(status="missed", scheduled=times[2], times=3),)
    assert counted.decided == times[2]
    more = counted.none_at("skipped", times[3:]).none_at("skipped", [])
    assert [entry.times for entry in more.history] == [3, 2]
    assert (more.counted("missed"), more.counted("skipped")) == (3, 2)


def test_one_daemon_has_it(book: Book) -> None:
    assert book.daemon() is None
    with book.alone():
        assert book.daemon() is not None
        with (
            pytest.raises(ConfigError, match="another daemon has this schedule: process"),
            book.alone(),
        ):
            pass
    assert book.daemon() is None


def test_a_config_has_one_book_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    spellings = (tmp_path / "m.yaml", tmp_path / "x" / ".." / "m.yaml", tmp_path / "link/m.yaml")
    assert len({Book.of(path, model="m").folder for path in spellings}) == 1
