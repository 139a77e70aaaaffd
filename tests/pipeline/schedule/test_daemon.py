"""The daemon on a made-up machine: what it starts, when, and what it writes down."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from made_up import Machine, utc

from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.release import hooks
from crosscast.pipeline.release.hooks import Outcome
from crosscast.pipeline.schedule.state import Book

HOURLY = "'0 * * * *'"


def machine(
    tmp_path: Path, start: str = "2026-01-01T00:30", until: str = "2026-01-01T03:30"
) -> Machine:
    return Machine(tmp_path, start, until=until)


def test_it_runs_at_its_times(tmp_path: Path) -> None:
    it = machine(tmp_path)
    assert it.run(it.config(HOURLY)) == 0
    assert it.starts() == ["01 01:00", "01 02:00", "01 03:00"]
    assert it.history() == [("published", f"01 0{hour}:00", 1) for hour in (1, 2, 3)]
    _, words = it.started[0]
    assert words == ("release", f"{tmp_path}/m.yaml", "--bump", "patch", "--json")
    entry = it.job().history[0]
    assert (entry.version, entry.code, entry.started) == ("1.0.1", 0, utc("2026-01-01T01:00"))
    assert it.said[0] == "m release: next at 2026-01-01 01:00 UTC"
    assert it.said[-1] == "m release: published 1.0.1"


def test_it_sleeps_between_and_not_for_long(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T00:50")
    it.run(it.config(HOURLY))
    assert it.clock.waits == 40


def test_nothing_changed_is_written_down(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T01:30")
    it.version = ""
    it.run(it.config(HOURLY))
    assert it.history() == [("nothing changed", "01 01:00", 1)]


@pytest.mark.parametrize(
    ("catch_up", "starts", "history"),
    [
        ("once", ["01 08:30", "01 09:00"], [("missed", "01 08:00", 7)]),
        ("skip", ["01 09:00"], [("missed", "01 08:00", 7)]),
    ],
)
def test_what_was_missed_is_caught_up_once_or_not(
    tmp_path: Path, catch_up: str, starts: list[str], history: list[tuple[str, str, int]]
) -> None:
    it = machine(tmp_path, until="2026-01-01T01:30")
    config = it.config(f"{{cron: {HOURLY}, catch_up: {catch_up}}}")
    it.run(config)
    again = machine(tmp_path, "2026-01-01T08:30", "2026-01-01T09:10")
    again.run(config)
    assert again.starts() == starts
    assert again.history()[1:2] == history
    assert "m release: missed 7, last 2026-01-01 08:00 UTC" in again.said


def test_once_does_what_is_due_and_ends(tmp_path: Path) -> None:
    it = machine(tmp_path)
    config = it.config(HOURLY)
    assert it.run(config, once=True) == 0
    assert it.starts() == []  # nothing can be missed before the first look
    again = machine(tmp_path, "2026-01-01T05:30", "2026-01-02T00:00")
    again.code = 4
    assert again.run(config, once=True) == 4
    assert again.starts() == ["01 05:30"]
    assert again.run(config, once=True) == 0
    assert again.history() == [("missed", "01 05:00", 5), ("failed", "01 05:00", 1)]


def test_a_job_that_takes_too_long_is_not_piled_up(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T06:50")
    it.takes = timedelta(hours=2, minutes=10)
    it.run(it.config(HOURLY))
    assert it.starts() == ["01 01:00", "01 04:00"]
    assert it.history() == [
        ("published", "01 01:00", 1),
        ("skipped", "01 03:00", 2),
        ("published", "01 04:00", 1),
        ("skipped", "01 06:00", 2),
    ]


def test_two_models_take_turns_and_lose_nothing(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T04:59")
    it.takes = timedelta(minutes=50)
    configs = it.config(HOURLY, model="m"), it.config("'10 */3 * * *'", model="n")
    it.run(*configs)
    started = [(f"{time:%H:%M}", Path(words[1]).stem) for time, words in it.started]
    assert started == [
        *(("01:00", "m"), ("02:00", "m"), ("03:00", "m"), ("03:50", "n")),
        ("04:40", "m"),
    ]
    assert it.history(of=1) == [("published", "01 03:10", 1)]


def test_both_jobs_of_a_config_are_run(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T01:30")
    verify = "{cron: '15 * * * *', release: stable}"
    it.run(it.config(f"{{cron: {HOURLY}, verify: {verify}}}"))
    assert [words[0] for _, words in it.started] == ["release", "verify"]
    assert it.started[1][1] == ("verify", "artifacts/m@stable")
    assert it.history("verify") == [("passed", "01 01:15", 1)]


def test_it_stops_between_jobs(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T00:40")
    assert it.run(it.config(HOURLY)) == 0
    assert it.history() == []


def test_a_job_is_stopped_with_it(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T01:10")
    it.takes = timedelta(hours=1)
    assert it.run(it.config(HOURLY)) == 130
    entry = it.job().history[-1]
    assert (entry.status, entry.code) == ("interrupted", 130)
    assert entry.said == "it was stopped with the daemon"


def test_a_job_that_was_done_as_it_was_told_to_stop_is_done(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T01:10")
    it.takes, it.stopped = timedelta(hours=1), 0
    assert it.run(it.config(HOURLY)) == 0
    assert it.history() == [("published", "01 01:00", 1)]


class Killed(BaseException):
    """What ends the daemon at once."""


def test_a_daemon_that_is_killed_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    it = machine(tmp_path)
    it.takes = timedelta(hours=1)

    def kill() -> None:
        raise Killed

    it.clock.at[utc("2026-01-01T01:10")] = kill
    config = it.config(HOURLY)
    with pytest.raises(Killed):
        it.run(config)
    assert it.history() == [("running", "01 01:00", 1)]
    again = machine(tmp_path, "2026-01-01T01:20", "2026-01-01T02:10")
    again.run(config)
    assert again.history() == [("interrupted", "01 01:00", 1), ("published", "01 02:00", 1)]
    assert again.job().history[0].said == "the daemon ended during the run"


def test_a_broken_state_is_told_and_started_afresh(tmp_path: Path) -> None:
    it = machine(tmp_path)
    config = it.config(HOURLY)
    it.run(config)
    book = Book.of(config, model="m")
    (book.folder / "state.json").write_text("{half")
    again = machine(tmp_path, "2026-01-02T00:30", "2026-01-02T01:10")
    assert again.run(config) == 0
    assert "state.json cannot be used" in again.said[0]
    assert again.said[0].endswith("it is started afresh")
    assert again.history() == [("published", "02 01:00", 1)]


def test_a_schedule_that_changed_has_missed_nothing(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T01:30")
    it.run(it.config(HOURLY))
    again = machine(tmp_path, "2026-01-02T00:30", "2026-01-02T00:45")
    again.run(it.config("{cron: '* * * * *', timezone: Europe/Berlin}"), once=True)
    assert again.history() == [("published", "01 01:00", 1)]


def test_a_machine_that_slept_has_missed_what_came(tmp_path: Path) -> None:
    for catch_up, starts in (("skip", ["01 09:00"]), ("once", ["01 08:40", "01 09:00"])):
        it = machine(tmp_path / catch_up, until="2026-01-01T09:10")
        (tmp_path / catch_up).mkdir()
        it.clock.at[utc("2026-01-01T00:40")] = lambda it=it: set_clock(it, "2026-01-01T08:40")
        it.run(it.config(f"{{cron: {HOURLY}, catch_up: {catch_up}}}"))
        assert it.starts() == starts
        assert it.history()[0] == ("missed", "01 08:00", 8)


def set_clock(it: Machine, text: str) -> None:
    it.clock.time = utc(text)


def test_a_clock_that_is_set_back_a_little_repeats_nothing(tmp_path: Path) -> None:
    it = machine(tmp_path, until="2026-01-01T03:10")
    it.clock.at[utc("2026-01-01T02:05")] = lambda: set_clock(it, "2026-01-01T01:50")
    it.run(it.config(HOURLY))
    assert it.history() == [("published", f"01 0{hour}:00", 1) for hour in (1, 2, 3)]


def test_a_clock_that_was_wrong_by_years_does_not_stop_it(tmp_path: Path) -> None:
    it = machine(tmp_path, "2031-01-01T00:30", "2031-01-01T02:00")
    config = it.config(HOURLY)
    it.run(config)
    again = machine(tmp_path)
    again.run(config)
    assert again.starts() == ["01 01:00", "01 02:00", "01 03:00"]
    assert "m release: the clock was set back: it goes on from now" in again.said


@pytest.mark.parametrize(
    ("cron", "start", "until", "starts"),
    [
        ("30 2 * * *", "2026-03-28T12:00", "2026-03-30T12:00", ["29 01:00", "30 00:30"]),
        ("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00", ["25 00:30", "26 01:30"]),
        ("0 3 * * 7", "2026-03-28T12:00", "2026-03-30T12:00", ["29 01:00"]),
    ],
)
def test_each_day_has_one_run_where_the_clocks_change(
    tmp_path: Path, cron: str, start: str, until: str, starts: list[str]
) -> None:
    it = machine(tmp_path, start, until)
    it.run(it.config(f"{{cron: '{cron}', timezone: Europe/Berlin}}"))
    assert it.starts() == starts


def test_two_daemons_never_have_one_schedule(tmp_path: Path) -> None:
    it = machine(tmp_path)
    config = it.config(HOURLY)
    with Book.of(config, model="m").alone(), pytest.raises(ConfigError) as refused:
        it.run(config)
    assert "another daemon has this schedule: process" in str(refused.value)
    assert it.starts() == []


def test_a_config_without_a_schedule_is_refused(tmp_path: Path) -> None:
    it = machine(tmp_path)
    with pytest.raises(ConfigError, match=r"m\.yaml: release\.schedule: this key is missing"):
        it.run(it.config("null"))


@pytest.mark.parametrize(
    ("code", "job", "broken", "told"),
    [
        (4, "release", False, False),  # it has told itself
        (-9, "release", False, True),
        (2, "release", True, True),
        (4, "verify", False, True),
        (0, "verify", False, False),
        (130, "verify", False, False),
    ],
)
def test_it_tells_what_a_run_could_not_tell_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    job: str,
    broken: bool,
    told: bool,
) -> None:
    outcomes: list[Outcome] = []

    def tell(_: object, outcome: Outcome, *, folder: Path) -> list[tuple[str, str]]:
        outcomes.append(outcome)
        assert folder == tmp_path
        return [("on_failure.command", "exit code 1")]

    monkeypatch.setattr(hooks, "tell", tell)
    it = machine(tmp_path, until="2026-01-01T01:30")
    it.code = code
    schedule = HOURLY if job == "release" else f"{{verify: {{cron: {HOURLY}}}}}"
    config = it.config(schedule)
    if broken:
        it.clock.at[utc("2026-01-01T00:40")] = lambda: config.write_text("model: [")  # type: ignore[assignment, return-value]
    it.run(config)
    assert [(outcome.event, outcome.code) for outcome in outcomes] == (
        [(job, code)] if told else []
    )
    entry = it.job("release" if job == "release" else "verify").history[0]
    assert entry.hooks == (("on_failure.command: exit code 1",) if told else ())
