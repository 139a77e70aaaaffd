"""A schedule for others to keep: systemd, cron, GitHub, GitLab, Kubernetes. One file each.

Jobs and their times are the daemon's. What happens at the changes of the clocks, and how late a job
may start, is up to who keeps the schedule; each file says what is to be known of that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from crosscast.pipeline.config.names import did_you_mean
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.schedule.export import crontab, github, gitlab, kubernetes, systemd
from crosscast.pipeline.schedule.export.project import Project

Files = Mapping[str, str]
"""Texts by the names of files."""

EXPORTS: Mapping[str, Callable[[Project], Files]] = {
    "systemd": systemd.files,
    "cron": crontab.files,
    "github": github.files,
    "gitlab": gitlab.files,
    "kubernetes": kubernetes.files,
}


def exported(kind: str, config: Config, *, folder: Path, image: str = "") -> Files:
    """The files that have others keep a config's schedule.

    folder: where jobs are started; for GitHub, GitLab and Kubernetes the root of the project.
    image: of containers, for Kubernetes. Raises ConfigError.
    """
    if kind not in EXPORTS:
        raise ConfigError(
            f"nothing is exported for '{kind}'{did_you_mean(kind, EXPORTS)}",
            fix=f"choose one of {', '.join(EXPORTS)}",
        )
    return EXPORTS[kind](Project.of(config, folder=folder, image=image))


def write(files: Files, out: Path) -> list[Path]:
    """Write the files into a directory; gives their paths. Raises ConfigError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    return [out / name for name in files]
