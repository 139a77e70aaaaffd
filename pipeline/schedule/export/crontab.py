"""Lines for a crontab."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

from crosscast.pipeline.schedule.export.project import Project
from crosscast.pipeline.schedule.jobs import CROSSCAST, Planned

COMMENT = """\
# Add these lines with `crontab -e`. Times are those of CRON_TZ where cron knows it (cronie: Fedora,
# Red Hat, Arch, SUSE); Debian's and Ubuntu's does not, and takes them for times of the machine's
# own time zone. cron does not catch up what it has missed.
"""


def files(project: Project) -> Mapping[str, str]:
    """One file."""
    lines = [f"CRON_TZ={project.zone}"]
    lines += [f"# It needs {name}=…" for name in project.variables]
    if cache := os.environ.get("CROSSCAST_CACHE"):
        lines.append(f"CROSSCAST_CACHE={os.path.abspath(cache)}")  # noqa: PTH100 - text
    lines += [_line(project, job) for job in project.jobs]
    return {f"{project.name}.cron": COMMENT + "\n".join(lines) + "\n"}


def _line(project: Project, job: Planned) -> str:
    folder = shlex.quote(str(project.folder))
    command = f"cd {folder} && {shlex.join((*CROSSCAST, *job.words))}"
    # To cron a percent sign is the end of a line.
    return f"{job.times.cron} {command}".replace("%", r"\%")
