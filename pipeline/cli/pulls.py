"""Commands of those who use a release: the artifact that suits a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crosscast.pipeline.cli.common import app


@app.command(epilog="Example: crosscast pull ./artifacts/m@stable --device pixel-8 -o model")
def pull(
    release: Annotated[
        str,
        typer.Argument(
            metavar="REGISTRY/MODEL[@VERSION|@CHANNEL]",
            help="A directory, or a url of http(s)://, s3:// or oci://, and the model in it. "
            "Default: its highest version.",
            show_default=False,
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option("--device", help="What suits this device best; see `crosscast devices`."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="This target.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The directory. Default: one of the model's name."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key: refuse what it did not sign.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option("--lock", help="Pin exact digests in this file; with it, refuse others."),
    ] = None,
    devices: Annotated[
        Path | None, typer.Option("--devices", help="A file with devices of your own.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the targets and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what, and stop.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why each better-ranked target was not taken.")
    ] = False,
) -> None:
    """Download the artifact of a release that suits a device, verified, resumed, whole or not.

    Exit codes: 0 it is in place; 1 the disk; 2 usage; 6 the registry, a digest or a signature was
    refused, or the release has nothing that fits.
    """
    from crosscast.pipeline.release import pull as work
    from crosscast.pipeline.release import wording

    found = work.find(release, key=key, lock=lock)
    typer.echo(wording.headline(found, signed=key is not None))
    if list_:
        typer.echo(wording.targets(found.release))
        return
    choice = work.choose(found, device=device, target=target, profiles=devices)
    if explain:
        for line in choice.explained():
            typer.echo(f"  {line}")
    typer.echo(wording.taken(found.release, choice))
    if dry_run:
        return
    pulled = work.pull(
        found, choice, out=out, lock=lock, tell=lambda text: typer.echo(text, err=True)
    )
    typer.echo(wording.delivered(pulled))


@app.command(epilog="Example: crosscast devices")
def devices(
    devices: Annotated[
        Path | None, typer.Option("--devices", help="A file with devices of your own.")
    ] = None,
) -> None:
    """List the devices that `pull` knows, and the targets that each takes, best first."""
    from crosscast.pipeline.release.devices import profiles

    for name, device in profiles(devices).items():
        typer.echo(f"{name:<20} {device.summary}\n{'':<20} {', '.join(device.targets or ())}")
