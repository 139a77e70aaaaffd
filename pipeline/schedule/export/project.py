"""What all exports are made from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from crosscast.pipeline.config.document import VARIABLE, Document
from crosscast.pipeline.config.load import read_text
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.schedule.due import CatchUp
from crosscast.pipeline.schedule.jobs import Planned, planned

CREDENTIALS: Mapping[str, tuple[str, ...]] = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"),
    "oci": ("DOCKER_AUTH_CONFIG",),
}
"""Variables that a registry is opened with on a machine that is nobody's, by the url's scheme: of
all registries that can be written to from there.
"""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A config's jobs and what they need. variables: those that the config is written with."""

    config: Config
    folder: Path
    jobs: Sequence[Planned]
    catch_up: CatchUp
    zone: str
    variables: tuple[str, ...]
    image: str

    @classmethod
    def of(cls, config: Config, *, folder: Path, image: str) -> Project:
        """That of a config. Raises ConfigError."""
        jobs = planned(config)
        schedule = config.release.schedule
        assert schedule is not None
        if "@" in urlsplit(config.release.registry).netloc:
            raise ConfigError(
                f"{config.path}: release.registry: the url has a name or a password in it, which "
                "would be written into the export",
                fix="give them to ~/.netrc",
            )
        return cls(
            config=config,
            folder=folder,
            jobs=jobs,
            catch_up=schedule.catch_up,
            zone=schedule.timezone,
            variables=_variables(config.path),
            image=image,
        )

    @property
    def name(self) -> str:
        """What it is called wherever it is kept."""
        return f"crosscast-{self.config.model}"

    def named(self, job: Planned) -> str:
        """What a job is called."""
        return self.name if job.name == "release" else f"{self.name}-{job.name}"

    def elsewhere(self, kind: str) -> Project:
        """The same where this machine's files are not: its paths are those from the folder on.

        Raises ConfigError where there are none, and where what is published would be lost.
        """
        scheme = urlsplit(self.config.release.registry).scheme
        if scheme not in CREDENTIALS:
            raise ConfigError(
                f"{self.config.path}: release.registry: {kind} keeps no files between runs, so "
                "that releases need a registry elsewhere",
                fix="give one, such as oci://host/repository or s3://bucket/prefix",
            )
        path = str(self.config.path)
        try:
            inside = str(self.config.path.resolve().relative_to(self.folder.resolve()))
        except ValueError:
            raise ConfigError(
                f"{path} is not below {self.folder}",
                fix="run this at the root of the project",
            ) from None
        jobs = [
            Planned(
                name=job.name,
                times=job.times,
                words=tuple(inside if word == path else word for word in job.words),
            )
            for job in self.jobs
        ]
        variables = tuple(dict.fromkeys((*self.variables, *CREDENTIALS[scheme])))
        return Project(**{**vars(self), "jobs": jobs, "variables": variables})


def portable(cron: str) -> str:
    """The expression with Sunday as 0: GitHub and Kubernetes know no 7."""
    *others, weekday = cron.split()
    if "7" not in re.split(r"[,\-/]", weekday):
        return cron
    from crosscast.pipeline.schedule.times import Times

    days = {int(str(day)) % 7 for day in Times(cron, "UTC").fields().weekdays}
    return " ".join([*others, ",".join(map(str, sorted(days)))])


def in_yaml(comment: str, *documents: object) -> str:
    """A YAML file that begins with a comment."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return head + yaml.safe_dump_all(documents, sort_keys=False, width=1000)


def _variables(path: Path) -> tuple[str, ...]:
    """The names of all `${VAR}` of a config."""
    document = Document(name=str(path), environ=os.environ)
    document.read(read_text(path))
    written = [place.written or "" for place in document.places.values()]
    found = [match["inner"] for text in written for match in VARIABLE.finditer(text)]
    return tuple(dict.fromkeys(inner.partition(":-")[0] for inner in found if inner))
