"""Who is told how a release has ended: a command, a webhook.

A hook never changes how a release has ended. A webhook's url and a command's arguments may hold
secrets, so that neither is ever told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

from crosscast.pipeline import web
from crosscast.pipeline.config.schedule import Hook, Hooks
from crosscast.pipeline.config.schema import Config

SCHEMA = 1
LIMIT = 60.0
"""Seconds that a command may take."""

LOG = "CROSSCAST_LOG"
"""Names the log of a scheduled run, to the run itself and to its hooks."""

SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a release, or a verification of one, has ended.

    version: what was published or verified; empty where nothing was. registry: without secrets.
    code: the exit code. log: path of all that was said; empty where it went to a terminal.
    """

    event: Literal["release", "verify"]
    model: str
    code: int
    said: str
    version: str = ""
    registry: str = ""
    channel: str = ""
    log: str = ""

    @classmethod
    def of(cls, config: Config, *, registry: str = "", **given: Any) -> Outcome:
        """That of a config's release; registry: where it goes, by default the config's."""
        return cls(
            model=config.model,
            registry=web.shown(registry or config.release.registry),
            channel=config.release.channel or "",
            **given,
        )

    @property
    def status(self) -> str:
        """`failed`, `published` or `passed`."""
        if self.code:
            return "failed"
        return "published" if self.event == "release" else "passed"

    def to_json(self) -> dict[str, object]:
        """What hooks are given."""
        return {"schema": SCHEMA, "status": self.status, **asdict(self)}

    def environ(self) -> dict[str, str]:
        """The same as variables, for commands."""
        return {
            "CROSSCAST_EVENT": self.event,
            "CROSSCAST_MODEL": self.model,
            "CROSSCAST_VERSION": self.version,
            "CROSSCAST_STATUS": self.status,
            "CROSSCAST_EXIT_CODE": str(self.code),
            LOG: self.log,
        }


def tell(
    hooks: Hooks, outcome: Outcome, *, folder: Path, sleep: web.Sleep = time.sleep
) -> list[tuple[str, str]]:
    """Tell whoever is to be told. folder: the config's, which commands are started in.

    Gives what failed: the key of the hook, and why.
    """
    name = "on_failure" if outcome.code else "on_success"
    hook: Hook | None = getattr(hooks, name)
    failed = []
    if hook is not None and hook.command:
        failed.append((f"{name}.command", _run(hook.command, outcome, folder)))
    if hook is not None and hook.webhook:
        failed.append((f"{name}.webhook", _post(hook.webhook, outcome, sleep)))
    return [(key, why) for key, why in failed if why]


def _run(command: list[str], outcome: Outcome, folder: Path) -> str:
    """Run the command; why it failed, or nothing."""
    # Files, not pipes: what the command leaves running may keep these open.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
        given.write(json.dumps(outcome.to_json()).encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **outcome.environ()},
                stdin=given,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"it cannot be started: {getattr(error, 'strerror', None) or error}"
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"it took longer than {LIMIT:g} seconds"
        return f"exit code {code}{_last_line(said)}" if code else ""


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:SHOWN]}" if last else ""


def _post(url: str, outcome: Outcome, sleep: web.Sleep) -> str:
    """Send the outcome; why that failed, or nothing."""

    def attempt() -> None:
        with web.answered(
            client, "POST", url, expected=tuple(range(200, 300)), json=outcome.to_json()
        ):
            pass

    try:
        with web.client() as client:
            web.retried(attempt, sleep=sleep)
    except web.Transient as error:
        return f"{_host(url)}: {error} ({web.TRIES} tries)".replace(url, "…")
    except web.Refused as error:
        return f"{_host(url)}: {error}".replace(url, "…")
    return ""


def _host(url: str) -> str:
    """All of a webhook's url that is no secret: paths are."""
    try:
        return urlsplit(url).hostname or "the webhook"
    except ValueError:
        return "the webhook"
