"""A timer and a service of systemd for each job. systemd starts no second run beside one."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from crosscast.pipeline.schedule.export.project import Project
from crosscast.pipeline.schedule.jobs import CROSSCAST, Planned
from crosscast.pipeline.schedule.times import Times

WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
SERVICE = """\
# systemctl --user enable --now {name}.timer, with both files in ~/.config/systemd/user
[Unit]
Description=crosscast: {job} {model}

[Service]
Type=oneshot
WorkingDirectory={folder}
{environment}ExecStart={command}
KillMode=mixed
KillSignal=SIGINT
"""
TIMER = """\
[Unit]
Description=crosscast: when to {job} {model}

[Timer]
{calendars}AccuracySec=1s
Persistent={persistent}

[Install]
WantedBy=timers.target
"""


def files(project: Project) -> Mapping[str, str]:
    """The units."""
    return {
        f"{project.named(job)}.{kind}": text
        for job in project.jobs
        for kind, text in (
            ("service", _service(project, job)),
            ("timer", _timer(project, job)),
        )
    }


def calendars(times: Times) -> list[str]:
    """The `OnCalendar=` that come when a cron expression does: either is enough.

    systemd asks for the day of the week and of the month, cron for one of them where it restricts
    both.
    """
    fields = times.fields()
    clock = f"{_any(fields.hours, 24)}:{_any(fields.minutes, 60)}:00 {times.zone}"
    months = _any(fields.months, 12)
    days = f"*-{months}-{_any({int(str(day)) for day in fields.days}, 31)}"
    weekdays = {int(str(day)) % 7 for day in fields.weekdays}
    names = ",".join(WEEKDAYS[day] for day in sorted(weekdays))
    if not fields.day_and:
        return [f"{days} {clock}", f"{names} *-{months}-* {clock}"]
    return [f"{days} {clock}" if len(weekdays) == len(WEEKDAYS) else f"{names} {days} {clock}"]


def _any(numbers: Collection[int], size: int) -> str:
    return "*" if len(numbers) == size else ",".join(f"{number:02}" for number in sorted(numbers))


def _service(project: Project, job: Planned) -> str:
    given = [f'Environment="{name}={_escaped(value)}"' for name, value in _environment().items()]
    if project.variables:
        given.append(f"# It has {', '.join(project.variables)}.")
        given.append(f"EnvironmentFile=-%E/crosscast/{project.config.model}.env")
    return SERVICE.format(
        name=project.named(job),
        job=job.name,
        model=project.config.model,
        folder=str(project.folder).replace("%", "%%"),
        environment="".join(f"{line}\n" for line in given),
        command=" ".join(_quoted(word) for word in (*CROSSCAST, *job.words)),
    )


def _timer(project: Project, job: Planned) -> str:
    return TIMER.format(
        job=job.name,
        model=project.config.model,
        calendars="".join(f"OnCalendar={it}\n" for it in calendars(job.times)),
        persistent="true" if project.catch_up == "once" else "false",
    )


def _environment() -> Mapping[str, str]:
    """What jobs have to know of the environment here: the same cache."""
    cache = os.environ.get("CROSSCAST_CACHE")
    return {"CROSSCAST_CACHE": os.path.abspath(cache)} if cache else {}  # noqa: PTH100 - text


def _quoted(word: str) -> str:
    """A word of a command line, by systemd's rules."""
    plain = _escaped(word).replace("$", "$$")
    return plain if plain and not set(plain) & set(" \t'\"\\;") else f'"{plain}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
