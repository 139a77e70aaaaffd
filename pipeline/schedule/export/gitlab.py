"""Jobs of GitLab CI, and how their schedules are made: GitLab keeps these outside of files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Any

from crosscast.pipeline.schedule.export.project import Project, in_yaml
from crosscast.pipeline.schedule.jobs import Planned

COMMENT = """\
Include this file in .gitlab-ci.yml, and make each schedule once, with a token that may write to the
API (or under Build > Pipeline schedules):

{schedules}
Jobs of one model wait for each other. GitLab does not catch up what it has missed."""
SCHEDULE = """\
api="https://gitlab.example.com/api/v4/projects/$PROJECT/pipeline_schedules"
id=$(curl --fail --header "PRIVATE-TOKEN: $TOKEN" "$api" \\
  --form description={name} --form ref=main --form cron={cron} --form cron_timezone={zone} \\
  | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
curl --fail --header "PRIVATE-TOKEN: $TOKEN" "$api/$id/variables" \\
  --form key=CROSSCAST_JOB --form value={name}

"""
VARIABLES = """
They need the CI/CD variables {names} (masked)."""


def files(project: Project) -> Mapping[str, str]:
    """One file."""
    project = project.elsewhere("GitLab")
    schedules = "".join(
        SCHEDULE.format(
            name=project.named(job),
            cron=shlex.quote(job.times.cron),
            zone=shlex.quote(project.zone),
        )
        for job in project.jobs
    )
    comment = COMMENT.format(schedules=schedules)
    if project.variables:
        comment += VARIABLES.format(names=", ".join(project.variables))
    jobs = {project.named(job): _job(project, job) for job in project.jobs}
    return {f"{project.name}.gitlab-ci.yml": in_yaml(comment, jobs)}


def _job(project: Project, job: Planned) -> dict[str, Any]:
    asked = f'$CI_PIPELINE_SOURCE == "schedule" && $CROSSCAST_JOB == "{project.named(job)}"'
    return {
        "image": f"python:{sys.version_info.major}.{sys.version_info.minor}",
        "rules": [{"if": asked}],
        "resource_group": project.name,
        "variables": {"CROSSCAST_CACHE": "$CI_PROJECT_DIR/.crosscast"},
        "cache": {"key": project.name, "paths": [".crosscast"]},
        "script": ["pip install 'crosscast[all]'", shlex.join(("crosscast", *job.words))],
    }
