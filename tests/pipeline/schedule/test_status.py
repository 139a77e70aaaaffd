"""What `schedule status` tells."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from made_up import Machine, utc

from crosscast.pipeline.schedule.state import Book
from crosscast.pipeline.schedule.status import describe, of

BERLIN = "{cron: '0 * * * *', timezone: Europe/Berlin}"


def test_a_config_that_never_ran_has_a_next_time(tmp_path: Path) -> None:
    config = Machine(tmp_path, "2026-01-01", until="2026-01-02").config(BERLIN)
    (found,) = of([config], utc("2026-07-01T00:30"))
    assert found.daemon == ""
    assert found.jobs[0].next == "2026-07-01T01:00:00+00:00"
    assert describe([found]).splitlines() == [
        f"m  {config}  no daemon",
        "  release  0 * * * *  next 2026-07-01 03:00 CEST",
    ]
    assert describe(of([], utc("2026-07-01T00:30"))) == "nothing is scheduled"


def test_all_that_happened_is_told(tmp_path: Path) -> None:
    it = Machine(tmp_path, "2026-01-01T00:30", until="2026-01-01T02:58")
    config = it.config(BERLIN)
    it.takes, it.code = timedelta(minutes=70), 4
    it.clock.at[utc("2026-01-01T00:40")] = lambda: setattr(
        it.clock, "time", utc("2026-01-01T01:45")
    )
    it.run(config)
    (found,) = of([config], utc("2026-01-01T05:30"))
    assert (found.jobs[0].missed, found.jobs[0].skipped, found.jobs[0].waiting) == (1, 1, 3)
    assert found.to_json()["jobs"][0]["history"][-1]["status"] == "missed"
    log = it.job().history[1].log
    assert describe(of([], utc("2026-01-01T05:30"))).splitlines() == [
        f"m  {config}  no daemon",
        "  release  0 * * * *  next 2026-01-01 07:00 CET, 1 missed, 1 skipped, 3 not looked at yet",
        "    2026-01-01 03:00 CET  skipped",
        f"    2026-01-01 02:00 CET  failed (4): as said  4200 s  {log}",
        "    2026-01-01 02:00 CET  missed",
    ]


def test_a_daemon_is_told(tmp_path: Path) -> None:
    config = Machine(tmp_path, "2026-01-01", until="2026-01-02").config(BERLIN)
    with Book.of(config, model="m").alone():
        (found,) = of([config], utc("2026-07-01T00:30"))
    assert found.daemon.isdigit()


def test_a_broken_state_is_told(tmp_path: Path) -> None:
    it = Machine(tmp_path, "2026-01-01T00:30", until="2026-01-01T00:40")
    config = it.config(BERLIN)
    it.run(config)
    (Book.of(config, model="m").folder / "state.json").write_text("{")
    for found in (of([config], utc("2026-01-01T05:30")), of([], utc("2026-01-01T05:30"))):
        assert "state.json cannot be used" in describe(found)
