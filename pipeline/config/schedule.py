"""The keys `release: schedule` and `release: hooks`: when a model is released by itself, and who is
told how a release has ended.

A cron expression is what all of cron, systemd, GitHub, GitLab and Kubernetes take for the same, so
that it may be exported to any of them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from crosscast.pipeline.config.fields import Model, problem
from crosscast.pipeline.config.names import CHANNEL, SEMVER, did_you_mean

FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
DAY, WEEKDAY = 2, 4
VALUE = r"([0-9]{1,2}|[A-Z]{3})"
TERM = rf"(\*|{VALUE}-{VALUE})(/[0-9]{{1,2}})?|{VALUE}"
FIELD = re.compile(rf"({TERM})(,({TERM}))*")
"""A field: what POSIX has, names, steps of ranges. `L`, `#` and `5/15` are of some crons only."""


def _cron(text: str) -> str:
    """The five fields in capitals, one space between them."""
    fields = text.upper().split()
    if len(fields) == len(FIELDS) + 1:
        raise problem("{got} has six fields; seconds are not supported, a minute comes first")
    if len(fields) != len(FIELDS):
        raise problem(
            "expected five fields such as '0 3 * * 1-5' (minute, hour, day of the month, month, "
            "day of the week), got {got}"
        )
    for name, field in zip(FIELDS, fields, strict=True):
        if not FIELD.fullmatch(field):
            raise problem(
                f"the {name} in {{got}} cannot be read; there are numbers, '1-5', '1,15', '*' and "
                "'*/2', names of months and days of the week"
            )
    _check_days(fields[DAY], fields[WEEKDAY])
    _check_times(" ".join(fields))
    return " ".join(fields)


def _check_days(day: str, weekday: str) -> None:
    """A step such as `*/2` is a restriction to some crons, and none to others."""
    if "*" in (day, weekday) or not (day[0] == "*" or weekday[0] == "*"):
        return
    raise problem(
        "{got} restricts the days of the month and of the week, one by a step of '*', which crons "
        "do not agree on; list its days, such as '1,3,5'"
    )


def _check_times(cron: str) -> None:
    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        wrong = (
            str(error).removeprefix("Bad ").replace("day-of", "day of the").replace("the-", "the ")
        )
        raise problem(f"{{got}} has no such {wrong}") from None
    except StopIteration:
        raise problem("{got} is a time that never comes") from None


def _zone(name: str) -> str:
    from zoneinfo import available_timezones

    if name != "UTC" and name not in (zones := available_timezones() - {"localtime"}):
        hint = did_you_mean(name, zones) or "; expected a name such as 'Europe/Berlin'"
        raise problem(f"no such time zone: {{got}}{hint}")
    return name


def _named(name: str) -> str:
    if not re.fullmatch(CHANNEL, name) and not re.fullmatch(SEMVER, name):
        raise problem("expected a channel such as 'stable', or a version, got {got}")
    return name


def _webhook(url: str) -> str:
    if url and not re.fullmatch(r"https?://\S+", url):
        raise problem("expected a url that begins with https:// or http://, got {got}")
    return url


Cron = Annotated[str, AfterValidator(_cron)]


class Verification(Model):
    """When what is published is proven again, in the runtimes of that day."""

    cron: Cron = Field(description="When: five fields, as for releases.")
    release: Annotated[str, AfterValidator(_named)] | None = Field(
        default=None,
        description="Channel or version; default the channel of new releases, else the highest "
        "version.",
    )


class Schedule(Model):
    """When `crosscast schedule` releases the model by itself."""

    cron: Cron | None = Field(
        default=None,
        description="When: minute, hour, day of the month, month, day of the week, such as "
        "'0 3 * * 1-5'. Restricted days of the month and of the week: either is enough.",
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="IANA name of the time zone, such as Europe/Berlin."
    )
    bump: Literal["major", "minor", "patch"] = Field(
        default="patch",
        description="Part of the highest version that goes up where something has changed.",
    )
    catch_up: Literal["once", "skip"] = Field(
        default="once",
        description="What was missed while nothing ran is done once at the next start, or not.",
    )
    verify: Verification | None = Field(
        default=None, description="When what is published is proven again."
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Schedule:
        if self.cron is None and self.verify is None:
            raise PydanticCustomError(
                "key_missing", "one of the keys 'cron' and 'verify' is needed"
            )
        return self


class _OrCron:
    """Has the JSON Schema offer the expression alone as well."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}


def _whole(value: object) -> object:
    return {"cron": value} if isinstance(value, str) else value


ScheduleOrCron = Annotated[Schedule, BeforeValidator(_whole), _OrCron]


class Hook(Model):
    """What is told: a command, a webhook, or both. Neither changes how a release has ended."""

    command: list[str] | None = Field(
        default=None,
        min_length=1,
        description="A program and its arguments, started in the config's directory without a "
        "shell. It gets the outcome as JSON on stdin, and as variables CROSSCAST_*.",
    )
    webhook: Annotated[str, AfterValidator(_webhook)] = Field(
        default="",
        description="Url that the outcome is sent to as JSON, by POST; a secret, best given as "
        "${HOOK_URL:-}. Empty: none.",
    )

    @model_validator(mode="after")
    def _something_to_tell(self) -> Hook:
        if not self.model_fields_set:
            raise PydanticCustomError(
                "key_missing", "one of the keys 'command' and 'webhook' is needed"
            )
        return self


class Hooks(Model):
    """Who is told how a release has ended, by hand or on a schedule."""

    on_success: Hook | None = Field(
        default=None, description="Told when a release was published; not where nothing changed."
    )
    on_failure: Hook | None = Field(
        default=None,
        description="Told when a release ended with another exit code than 0, or a scheduled "
        "verification did.",
    )
