"""The keys `release: schedule` and `release: hooks`, and how mistakes in them are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.release import ReleasePolicy
from crosscast.pipeline.config.schedule import Schedule, Verification
from crosscast.pipeline.errors import ConfigError

CONFIG = """\
model: m
version: 1.0.0
source: {{onnx: m.onnx}}
targets: {{onnx: {{}}}}
release:
  {key}: {value}
"""


def policy(tmp_path: Path, key: str, value: str, **environ: str) -> ReleasePolicy:
    (tmp_path / "m.onnx").touch()
    path = tmp_path / "m.yaml"
    path.write_text(CONFIG.format(key=key, value=value))
    return load(path, environ=environ).release


def schedule(tmp_path: Path, value: str) -> Schedule:
    found = policy(tmp_path, "schedule", value).schedule
    assert found is not None
    return found


def test_a_schedule_may_be_its_expression_alone(tmp_path: Path) -> None:
    assert schedule(tmp_path, "'0 3 * * 1'") == Schedule(cron="0 3 * * 1")
    assert schedule(tmp_path, "{cron: '0  3 * jan,mar mon-fri'}").cron == "0 3 * JAN,MAR MON-FRI"


def test_a_schedule_may_say_all(tmp_path: Path) -> None:
    found = schedule(
        tmp_path,
        "{timezone: Europe/Berlin, bump: minor, catch_up: skip, "
        "verify: {cron: '*/5 0-6/2 1,15 * *', release: stable}}",
    )
    assert found == Schedule(
        timezone="Europe/Berlin",
        bump="minor",
        catch_up="skip",
        verify=Verification(cron="*/5 0-6/2 1,15 * *", release="stable"),
    )


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("0 0 3 * * 1", "'0 0 3 * * 1' has six fields; seconds are not supported"),
        ("@daily", "expected five fields such as '0 3 * * 1-5' (minute, hour, day of the month"),
        ("", "expected five fields"),
        ("60 0 * * *", "'60 0 * * *' has no such minute"),
        ("0 0 31 2 *", "'0 0 31 2 *' has no such day of the month"),
        ("0 0 * * 8", "'0 0 * * 8' has no such day of the week"),
        ("0 0 * * FOO", "'0 0 * * FOO' has no such day of the week"),
        ("0 22-4 * * *", "has no such hour"),
        ("*/0 * * * *", "has no such minute"),
        ("0 0 L * *", "the day of the month in '0 0 L * *' cannot be read"),
        ("0 0 * * 1#2", "the day of the week in '0 0 * * 1#2' cannot be read"),
        ("5/15 * * * *", "the minute in '5/15 * * * *' cannot be read"),
        ("0 0 */2 * 1", "which crons do not agree on; list its days, such as '1,3,5'"),
        ("0 0 1 * */2", "which crons do not agree on"),
        ("²9 0 * * *", "cannot be read"),
    ],
)
def test_what_crons_do_not_agree_on_is_refused(tmp_path: Path, cron: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        schedule(tmp_path, f"{{cron: '{cron}'}}")
    assert f"{tmp_path}/m.yaml:6:20: release.schedule.cron: " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize("cron", ["0 0 29 2 *", "0 0 31 2 1", "0 0 1-31 * 1", "0 0 * * 0-7"])
def test_what_they_agree_on_is_not(tmp_path: Path, cron: str) -> None:
    assert schedule(tmp_path, f"'{cron}'").cron == cron


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("schedule", "{}", "m.yaml:6:3: release.schedule: one of the keys 'cron' and 'verify'"),
        ("schedule", "5", "m.yaml:6:13: release.schedule: expected a mapping, got 5"),
        (
            "schedule",
            "{cron: '0 3 * * 1', timezone: Europe/Berln}",
            "release.schedule.timezone: no such time zone: 'Europe/Berln'; "
            "did you mean 'Europe/Berlin'?",
        ),
        ("schedule", "{cron: '0 3 * * 1', timezone: ../x}", "expected a name such as"),
        ("schedule", "{cron: '0 3 * * 1', timezone: localtime}", "no such time zone"),
        ("schedule", "{cron: '0 3 * * 1', bump: none}", "release.schedule.bump: expected"),
        ("schedule", "{cron: '0 3 * * 1', chatch_up: once}", "did you mean 'catch_up'?"),
        (
            "schedule",
            "{verify: {cron: '0 3 * * 1', release: 1.0}}",
            "release.schedule.verify.release: expected text, got 1.0",
        ),
        (
            "schedule",
            "{verify: {cron: '0 3 * * 1', release: No}}",
            "expected a channel such as 'stable', or a version, got 'No'",
        ),
        ("schedule", "{verify: {release: x}}", "release.schedule.verify.cron: this key is missing"),
        ("hooks", "{on_failure: {}}", "one of the keys 'command' and 'webhook' is needed"),
        ("hooks", "{on_failure: {command: ls}}", "expected a list, got 'ls'"),
        ("hooks", "{on_failure: {command: []}}", "expected a list of 1 or more"),
        ("hooks", "{on_falure: {command: [ls]}}", "did you mean 'on_failure'?"),
    ],
)
def test_mistakes_are_told_with_their_place(
    tmp_path: Path, key: str, value: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        policy(tmp_path, key, value)
    assert said in str(refused.value)


def test_a_webhook_is_a_secret_that_may_be_missing(tmp_path: Path) -> None:
    value = "{on_failure: {webhook: '${HOOK:-}'}}"
    there = policy(tmp_path, "hooks", value, HOOK="https://host/secret").hooks.on_failure
    assert there is not None
    assert there.webhook == "https://host/secret"
    none = policy(tmp_path, "hooks", value).hooks.on_failure
    assert none is not None
    assert none.webhook == ""
    with pytest.raises(ConfigError) as refused:
        policy(tmp_path, "hooks", value, HOOK="ftp://host/secret")
    assert "begins with https:// or http://, got '${HOOK:-}'" in str(refused.value)


def test_editors_know_both_forms() -> None:
    schema = json.loads((Path(__file__).parents[3] / "pipeline/config/schema.json").read_text())
    forms = json.dumps(schema["$defs"]["ReleasePolicy"]["properties"]["schedule"])
    assert '{"type": "string"}' in forms
    assert '"$ref": "#/$defs/Schedule"' in forms
