"""A workflow of GitHub Actions."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.schedule.export.project import Project, in_yaml, portable
from crosscast.pipeline.schedule.jobs import Planned

SHORTEST = timedelta(minutes=5)
"""GitHub: "the shortest interval you can run scheduled workflows is once every 5 minutes"."""

COMMENT = """\
To be kept as .github/workflows/{name}.yml, on the default branch: others have no schedule.
GitHub starts late when it is busy, leaves out what it cannot start, and switches schedules off in
public repositories after 60 days without a commit.
GitHub Enterprise Servers that do not know `timezone` yet take times for UTC's."""


def files(project: Project) -> Mapping[str, str]:
    """One file. Raises ConfigError where a job comes too often for GitHub."""
    project = project.elsewhere("GitHub")
    for job in project.jobs:
        _check(project, job)
    return {f"{project.name}.yml": in_yaml(COMMENT.format(name=project.name), _workflow(project))}


def _workflow(project: Project) -> dict[str, Any]:
    zone = {} if project.zone == "UTC" else {"timezone": project.zone}
    crons = dict.fromkeys(portable(job.times.cron) for job in project.jobs)
    return {
        "name": project.name,
        "on": {
            "schedule": [{"cron": cron, **zone} for cron in crons],
            "workflow_dispatch": {},
        },
        "permissions": {"contents": "read"},
        "concurrency": {"group": project.name, "cancel-in-progress": False},
        "jobs": {job.name: _job(project, job) for job in project.jobs},
    }


def _job(project: Project, job: Planned) -> dict[str, Any]:
    when = f"github.event.schedule == '{portable(job.times.cron)}'"
    secrets = {name: f"${{{{ secrets.{name} }}}}" for name in project.variables}
    cache = {
        "path": "~/.cache/crosscast",
        "key": f"{project.name}-${{{{ github.run_id }}}}",
        "restore-keys": f"{project.name}-",
    }
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "if": f"github.event_name == 'workflow_dispatch' || {when}",
        "runs-on": "ubuntu-latest",
        **({"env": secrets} if secrets else {}),
        "steps": [
            {"uses": "actions/checkout@v5"},
            {"uses": "actions/setup-python@v6", "with": {"python-version": version}},
            {"uses": "actions/cache@v5", "with": cache},
            {"run": "pip install 'crosscast[all]'"},
            {"run": shlex.join(("crosscast", *job.words))},
        ],
    }


def _check(project: Project, job: Planned) -> None:
    times = islice(job.times.after(datetime.now(UTC)), 100)
    if any(later - earlier < SHORTEST for earlier, later in pairwise(times)):
        raise ConfigError(
            f"{project.config.path}: release.schedule: '{job.times.cron}' comes more often than "
            f"every {SHORTEST.seconds // 60} minutes, which GitHub does not do",
            fix="let it come less often, or choose another place for it",
        )
