"""What happens during a build, as typed events; console, logs and reports subscribe. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events; `kind` is its name in JSON lines."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form with the kind under "event"."""
        return {"event": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class StepStarted(Event):
    """A step was given to a worker. reason: why its record could not be used."""

    kind = "step_started"
    step: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StepCached(Event):
    """A step's record was found, with its bytes."""

    kind = "step_cached"
    step: str


@dataclass(frozen=True, kw_only=True)
class StepFinished(Event):
    """A step ran and its tree is stored. seconds: wall time; peak: bytes of its process tree."""

    kind = "step_finished"
    step: str
    seconds: float
    peak: int
    notes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StepFailed(Event):
    """A step's worker did not succeed. status: the named outcome; log: path of its output.

    repeat: the command that repeats it alone; empty where there is none. size: bytes of what that
    keeps.
    """

    kind = "step_failed"
    step: str
    status: str
    message: str
    fix: str
    log: str
    repeat: str = ""
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class StepSkipped(Event):
    """A step did not run because of another one."""

    kind = "step_skipped"
    step: str
    because: str


@dataclass(frozen=True, kw_only=True)
class TargetFinished(Event):
    """A target's end. status: passed, failed, unverified, or error where it was not built.

    artifact: its directory; empty where nothing was delivered. repeat: the command that repeats
    alone the verification that it failed; empty where it did not. explanation: where the error of
    one that has failed comes from (see `parity.explanation`); None where that is not known.
    """

    kind = "target_finished"
    target: str
    status: str
    reason: str
    artifact: str
    repeat: str = ""
    explanation: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class BuildFinished(Event):
    """A build's end. code: the exit code; seconds: wall time; ran, cached: numbers of steps."""

    kind = "build_finished"
    code: int
    seconds: float
    ran: int
    cached: int


@dataclass(frozen=True, kw_only=True)
class Message(Event):
    """Something to know that belongs to no step."""

    kind = "message"
    text: str


@dataclass(frozen=True, kw_only=True)
class HookFailed(Event):
    """Somebody was not told how a release has ended. hook: its key; why: in words."""

    kind = "hook_failed"
    hook: str
    why: str


Subscriber = Callable[[Event], None]
