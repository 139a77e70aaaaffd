"""What a release tells its hooks, and that two of one model are never under way at once."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from shop import Shop

from crosscast.pipeline import staging
from crosscast.pipeline.config.schedule import Hooks
from crosscast.pipeline.errors import ConfigError, GateError
from crosscast.pipeline.events import Event, HookFailed
from crosscast.pipeline.release import hooks, publish
from crosscast.pipeline.release.hooks import Outcome


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    outcomes: list[Outcome] = []

    def tell(_: Hooks, outcome: Outcome, *, folder: Path) -> list[tuple[str, str]]:
        outcomes.append(outcome)
        return [("on_success.command", "exit code 1")]

    monkeypatch.setattr(hooks, "tell", tell)
    return outcomes


def test_what_is_published_is_told(
    shop: Shop, told: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSCAST_LOG", "/log")
    shop.says("channel", "beta")
    ended = shop.release()
    assert ended.version == "1.0.0"
    (outcome,) = told
    assert outcome == Outcome(
        event="release",
        model="m",
        code=0,
        said=ended.said,
        version="1.0.0",
        channel="beta",
        log="/log",
    )


def test_a_hook_that_fails_is_told_and_changes_nothing(shop: Shop, told: list[Outcome]) -> None:
    events: list[Event] = []
    assert shop.release(emit=events.append).code == 0
    assert events == [HookFailed(hook="on_success.command", why="exit code 1")]


def test_nothing_changed_and_a_dry_run_are_not_told(shop: Shop, told: list[Outcome]) -> None:
    assert shop.release(dry_run=True).version == ""
    shop.release()
    told.clear()
    assert shop.release().version == ""
    assert shop.release(bump="patch").version == ""
    shop.data = b"others"
    with pytest.raises(GateError):
        shop.release(dry_run=True)
    assert told == []


def test_what_fails_is_told_with_its_code(shop: Shop, told: list[Outcome]) -> None:
    shop.code = 4
    shop.release()
    shop.code = 0
    shop.release()
    shop.data = b"others"
    with pytest.raises(GateError):
        shop.release()
    assert [(it.code, it.status) for it in told] == [(4, "failed"), (0, "published"), (5, "failed")]
    assert "is published in" in told[-1].said


def test_a_registry_with_a_password_is_told_without_it(shop: Shop, told: list[Outcome]) -> None:
    with pytest.raises(ConfigError, match="only read"):
        shop.release(registry="https://me:secret@127.0.0.1:9/models")
    assert told[0].registry == "https://127.0.0.1:9/models"


def _release(shop: Shop, ended: multiprocessing.Queue[str]) -> None:
    try:
        ended.put(shop.release().said)
    except GateError as error:
        ended.put(str(error))


def test_two_at_once_are_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build of the first one starts another one meanwhile."""
    said: list[str] = []
    context = multiprocessing.get_context("fork")
    build = shop.build

    def slow(*given: object, **options: object) -> int:
        if not said:
            ended: multiprocessing.Queue[str] = context.Queue()
            other = context.Process(target=_release, args=(shop, ended))
            other.start()
            said.append(ended.get(timeout=60))
            other.join()
        return build(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(publish, "build", slow)
    assert shop.release().version == "1.0.0"
    assert f"another release of m is under way: process {os.getpid()}" in said[0]
    shop.data = b"others"
    assert shop.release(version="1.0.1").version == "1.0.1"


def test_a_file_that_nobody_has_has_no_holder(tmp_path: Path) -> None:
    assert staging.holder(tmp_path / "lock") is None
    with staging.alone(tmp_path / "lock"):
        assert staging.holder(tmp_path / "lock") == str(os.getpid())
    assert staging.holder(tmp_path / "lock") is None
