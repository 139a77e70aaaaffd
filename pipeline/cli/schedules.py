"""Commands that release models at set times, and say what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crosscast.pipeline.cli.common import AsJson, Configs, OneConfig, app

schedule = typer.Typer(help="Release models at set times.")
app.add_typer(schedule, name="schedule")


@schedule.command(epilog="Example: crosscast schedule run configs/iris-forest.yaml")
def run(
    configs: Configs,
    once: Annotated[
        bool, typer.Option("--once", help="Do what was missed since the last time, then end.")
    ] = False,
) -> None:
    """Release and verify models at their times.

    It stays until it is stopped. One run at a time, each a process of its own; times that come
    while it runs are skipped. What was missed while nothing ran is done once (`catch_up: skip`: not
    at all). A schedule that has changed counts from the next start on.

    Exit codes: 0 stopped by SIGTERM or Ctrl-C; 130 the same during a run; 2 usage or config, or
    another process has the schedule. With --once that of the worst run.
    """
    from crosscast.pipeline.config.load import load
    from crosscast.pipeline.schedule.clock import Clock
    from crosscast.pipeline.schedule.daemon import Daemon
    from crosscast.pipeline.schedule.scheduled import Scheduled
    from crosscast.pipeline.schedule.times import stamped

    def say(text: str) -> None:
        typer.echo(f"{stamped(clock.now())}  {text}")

    with Clock() as clock:
        found = [Scheduled(load(path), say=say) for path in configs]
        raise typer.Exit(Daemon(found, clock=clock).run(once=once))


@schedule.command(epilog="Example: crosscast schedule status configs/iris-forest.yaml")
def status(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(help="Config files. Default: all that were scheduled.", show_default=False),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Show what comes next, the last runs, what was missed."""
    import json
    from datetime import UTC, datetime

    from crosscast.pipeline.schedule import status as statuses

    found = statuses.of(configs or (), datetime.now(UTC))
    if json_:
        told = [entry.to_json() for entry in found]
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2))
    else:
        typer.echo(statuses.describe(found))


@schedule.command(epilog="Example: crosscast schedule export systemd configs/iris-forest.yaml")
def export(
    kind: Annotated[
        str,
        typer.Argument(help="systemd, cron, github, gitlab or kubernetes.", show_default=False),
    ],
    config: OneConfig,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Directory of the files. Default: they are printed."),
    ] = None,
    image: Annotated[
        str, typer.Option("--image", help="Kubernetes: the image with crosscast and the project.")
    ] = "",
) -> None:
    """Write a schedule for others to keep.

    It takes the place of `schedule run`. Jobs are started in the directory that this is run in; for
    GitHub, GitLab and Kubernetes that is the root of the project.
    """
    from crosscast.pipeline.config.load import load
    from crosscast.pipeline.schedule.export import exported, write

    files = exported(kind, load(config), folder=Path.cwd(), image=image)
    if out is None:
        headed = [f"# {name}\n{text}" for name, text in files.items()] if len(files) > 1 else []
        typer.echo("\n".join(headed or files.values()), nl=False)
    else:
        typer.echo("\n".join(map(str, write(files, out))))
