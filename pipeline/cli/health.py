"""Commands about this machine: what there is, what can be built and run."""

from __future__ import annotations

from typing import Annotated

import typer

from crosscast.pipeline.cli.common import app, open_store


@app.command(epilog="Example: crosscast targets")
def targets() -> None:
    """List the targets, and whether they can be built and run here."""
    from crosscast.pipeline import doctor

    for health in doctor.targets(open_store().root):
        state = "builds, runs" if health.runs else "builds" if health.builds else "needs set-up"
        typer.echo(f"{health.target:<14} {state:<13} {health.summary}")


@app.command(epilog="Example: crosscast doctor --build-overlays")
def doctor(
    build_overlays: Annotated[
        bool,
        typer.Option(
            "--build-overlays", help="Build missing overlays now, for builds without network."
        ),
    ] = False,
) -> None:
    """Show what is installed, what can be built and run here, and what to install."""
    from crosscast.pipeline import doctor as checks
    from crosscast.pipeline.report.health import describe

    cache = open_store().root
    if build_overlays:
        for path in checks.build_overlays(cache):
            typer.echo(f"overlay: {path}")
    typer.echo(describe(checks.toolchains(cache), checks.targets(cache)))
