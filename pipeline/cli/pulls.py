"""Commands of those who use a release: the artifact that suits a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosscast.pipeline.cli.common import app

if TYPE_CHECKING:
    from crosscast.pipeline.config.profiles import Written


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
        typer.echo(wording.listed(found.release))
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


@app.command(epilog="Example: crosscast devices configs/efficientnet-lite0.yaml")
def devices(
    config: Annotated[
        Path | None,
        typer.Argument(help="A config: those that come with its release, too.", show_default=False),
    ] = None,
    devices: Annotated[
        Path | None, typer.Option("--devices", help="A file with devices of your own.")
    ] = None,
) -> None:
    """List the devices that `pull` knows, and the targets that each takes, best first."""
    from crosscast.pipeline.release import wording
    from crosscast.pipeline.release.devices import profiles

    own = _devices_of(config) if config else {}
    for name, device in profiles(devices, shipped=own).items():
        typer.echo(wording.device(name, device))


def _devices_of(config: Path) -> dict[str, Written]:
    from crosscast.pipeline.config.devices import written
    from crosscast.pipeline.config.load import load

    return written(load(config).release.devices)
