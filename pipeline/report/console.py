"""Events as text: live on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from crosscast.pipeline.events import (
    Event,
    HookFailed,
    Message,
    StepCached,
    StepFailed,
    StepFinished,
    StepSkipped,
    StepStarted,
    TargetFinished,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

MIB = 1024**2


def describe(event: Event, *, verbose: bool) -> str:
    """One event as a line (or a few, for a failure); empty where it says nothing new."""
    match event:
        case StepStarted():
            return f"run     {event.step}  ({event.reason})" if verbose else ""
        case StepCached():
            return f"cached  {event.step}" if verbose else ""
        case StepFinished():
            text = f"done    {event.step}  {event.seconds:.1f} s, {event.peak // MIB} MiB"
            reason = event.notes.get("reason")
            return f"{text}\n        note: {reason}" if reason else text
        case StepFailed():
            lines = [f"FAILED  {event.step} [{event.status}]: {event.message}"]
            lines += [f"        fix: {event.fix}"] if event.fix else []
            lines.append(f"        log: {event.log}")
            if event.repeat:
                lines.append(
                    f"        repeat it alone ({event.size / MIB:.1f} MiB): {event.repeat}"
                )
            return "\n".join(lines)
        case StepSkipped():
            return f"skip    {event.step}  (because of {event.because})" if verbose else ""
        case Message():
            return f"note    {event.text}"
        case HookFailed():
            return f"note    {event.hook} failed: {event.why}"
    return ""


class JsonLines:
    """Prints every event as one JSON object a line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def __call__(self, event: Event) -> None:
        """Print the event."""
        self.stream.write(json.dumps(event.to_json(), ensure_ascii=False) + "\n")
        self.stream.flush()

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""


class PlainLines(JsonLines):
    """Prints what a reader of a log wants to know, a line an event."""

    def __init__(self, stream: TextIO | None = None, *, verbose: bool = False) -> None:
        super().__init__(stream)
        self.verbose = verbose

    def __call__(self, event: Event) -> None:
        """Print the event."""
        text = describe(event, verbose=self.verbose)
        if text:
            self.stream.write(text + "\n")
            self.stream.flush()


class LiveConsole:
    """Shows what is running and for how long, below the lines of what has ended."""

    def __init__(self, *, verbose: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live

        self.verbose = verbose
        self.running: dict[str, float] = {}
        self.console = Console(highlight=False, soft_wrap=True)
        self.live = Live(
            console=self.console,
            refresh_per_second=8,
            transient=True,
            get_renderable=self._running,
        )

    def __call__(self, event: Event) -> None:
        """Print the event and refresh the list of running steps."""
        if isinstance(event, StepStarted):
            self.running[event.step] = time.monotonic()
        elif isinstance(event, StepFinished | StepFailed):
            self.running.pop(event.step, None)
        text = describe(event, verbose=self.verbose)
        if text:
            style = "red" if isinstance(event, StepFailed) else ""
            self.console.print(text, style=style, markup=False)

    def _running(self) -> RenderableType:
        from rich.text import Text

        now = time.monotonic()
        return Text(
            "\n".join(f"  …  {step}  {now - start:.0f} s" for step, start in self.running.items()),
            style="cyan",
        )

    def __enter__(self) -> Self:
        """Start the live display."""
        self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the live display; what was printed stays."""
        self.live.stop()


def summary(events: list[TargetFinished]) -> str:
    """One line a target: its verdict, why, and where the artifact is."""
    width = max((len(event.target) for event in events), default=0)
    lines = []
    for event in events:
        reason = f": {event.reason}" if event.reason else ""
        where = f"  -> {event.artifact}" if event.artifact else "  (nothing delivered)"
        lines.append(f"{event.target:<{width}}  {event.status}{reason}{where}")
        lines += [f"{'':<{width}}  repeat it alone: {event.repeat}"] if event.repeat else []
    return "\n".join(lines)
