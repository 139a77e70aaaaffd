"""A CronJob of Kubernetes for each job, and a volume that keeps the cache between runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosscast.pipeline.digest import of_json
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.schedule.export.project import Project, in_yaml, portable
from crosscast.pipeline.schedule.jobs import Planned

LONGEST = 52
"""Characters of a CronJob's name: its jobs add 11 to it, and may have 63."""

LATE = 60
"""Seconds that a job may start late where it is not caught up; the controller looks every 10."""

COMMENT = """\
The image has crosscast installed and this project in its working directory. Time zones need
Kubernetes 1.27."""
SECRET = """
The secret {name} has {names}."""


def files(project: Project) -> Mapping[str, str]:
    """One file. Raises ConfigError where no image is named."""
    project = project.elsewhere("Kubernetes")
    if not project.image:
        raise ConfigError(
            "Kubernetes runs images, and none is named",
            fix="give --image NAME: one with crosscast and this project in its working directory",
        )
    comment = COMMENT
    if project.variables:
        names = ", ".join(project.variables)
        comment += SECRET.format(name=_dns(project.name), names=names)
    jobs = [_cron_job(project, job) for job in project.jobs]
    return {f"{project.name}.yaml": in_yaml(comment, _claim(project), *jobs)}


def _claim(project: Project) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": _dns(project.name)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "20Gi"}},
        },
    }


def _cron_job(project: Project, job: Planned) -> dict[str, Any]:
    late = {} if project.catch_up == "once" else {"startingDeadlineSeconds": LATE}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": _dns(project.named(job))},
        "spec": {
            "schedule": portable(job.times.cron),
            "timeZone": project.zone if project.zone != "UTC" else "Etc/UTC",
            "concurrencyPolicy": "Forbid",
            **late,
            "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": _pod(project, job)}}},
        },
    }


def _pod(project: Project, job: Planned) -> dict[str, Any]:
    secret = [{"secretRef": {"name": _dns(project.name)}}]
    container = {
        "name": job.name,
        "image": project.image,
        "command": ["crosscast", *job.words],
        "env": [{"name": "CROSSCAST_CACHE", "value": "/cache"}],
        **({"envFrom": secret} if project.variables else {}),
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    }
    claim = {"claimName": _dns(project.name)}
    return {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "cache", "persistentVolumeClaim": claim}],
    }


def _dns(name: str) -> str:
    """A name that Kubernetes takes: no '_', a letter or digit at its ends, not too long."""
    plain = name.replace("_", "-").replace(".", "-")
    if len(plain) > LONGEST:
        plain = f"{plain[: LONGEST - 9]}-{of_json(name)[:8]}"
    return plain.strip("-")
