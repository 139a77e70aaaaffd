"""Commands that publish releases, compare them and name them by channels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crosscast.pipeline.cli.common import (
    AsJson,
    OneConfig,
    RegistryAt,
    Verbose,
    app,
    console,
    open_store,
    settings_for,
)
from crosscast.pipeline.errors import ConfigError


@app.command(epilog="Example: crosscast release configs/iris-forest.yaml --bump minor")
def release(
    config: OneConfig,
    version: Annotated[
        str, typer.Option("--version", help="Its version. Default: the config's.")
    ] = "",
    bump: Annotated[
        str,
        typer.Option(
            "--bump", help="Raise this part of the highest version there is: major, minor, patch."
        ),
    ] = "",
    registry: Annotated[
        str,
        typer.Option("--registry", help="Where to publish. Default: the config's, else only -o."),
    ] = "",
    key: Annotated[
        str, typer.Option("--key", help="Private key that signs. Default: the config's, else none.")
    ] = "",
    against: Annotated[
        str,
        typer.Option("--against", help="Release to hold it against. Default: the one before."),
    ] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="Where artifacts go.")] = Path(
        "artifacts"
    ),
    check_reproducible: Annotated[
        bool,
        typer.Option("--check-reproducible", help="Build twice from nothing; compare all bytes."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and compare, but publish nothing.")
    ] = False,
    verbose: Verbose = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print events and the end as JSON lines.")
    ] = False,
) -> None:
    """Build, prove, compare with the release before, sign and publish one version of a model.

    Exit codes: 0 published, or nothing to publish; 1 to 4 as `build`; 5 refused: the version is
    taken, a limit is passed, or builds differ; 6 the registry refuses.
    """
    import json
    from dataclasses import asdict

    from crosscast.pipeline.config.load import load
    from crosscast.pipeline.events import Event, TargetFinished
    from crosscast.pipeline.release import diff as differences
    from crosscast.pipeline.release import publish

    wanted = publish.Wanted(
        version=version,
        bump=bump,
        registry=registry,
        key=key,
        against=against,
        check_reproducible=check_reproducible,
        dry_run=dry_run,
    )
    loaded = load(config)
    settings = settings_for(loaded, artifacts=out)
    with console(json_=json_, verbose=verbose) as show:

        def emit(event: Event) -> None:
            show(event)
            if isinstance(event, TargetFinished) and event.status != "passed" and not json_:
                typer.echo(f"{event.target}  {event.status}: {event.reason}")

        ended = publish.release(loaded, wanted, store=open_store(), settings=settings, emit=emit)
    if json_:
        told = {"event": "released", **asdict(ended), "place": str(ended.place or "")}
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        typer.echo(
            differences.describe(ended.comparison) + "\n" if ended.comparison else "", nl=False
        )
        typer.echo(ended.said)
    raise typer.Exit(ended.code)


@app.command(
    epilog="Example: crosscast diff artifacts/iris-forest@1.0.0 artifacts/iris-forest@1.1.0"
)
def diff(
    before: Annotated[
        str, typer.Argument(help="[REGISTRY/]MODEL[@VERSION|@CHANNEL], or a release's directory.")
    ],
    after: Annotated[str, typer.Argument(help="As BEFORE.")],
    registry: RegistryAt = "artifacts",
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Time the artifacts in turns.")
    ] = True,
    json_: AsJson = False,
) -> None:
    """Compare two releases: sizes, times, numbers of the verdicts, interfaces, targets."""
    import json

    from crosscast.pipeline.release import diff as differences
    from crosscast.pipeline.release import located
    from crosscast.pipeline.runner import Settings

    found = [located.find(text, registry=registry) for text in (before, after)]
    store = open_store()
    with store.workspace() as workspace:
        comparison = located.compared(
            *found,
            workspace=workspace,
            store=store,
            settings=Settings(artifacts=Path(registry)),
            latency=latency,
        )
    if json_:
        typer.echo(json.dumps(comparison.to_json(), ensure_ascii=False, indent=2))
    else:
        typer.echo(differences.describe(comparison))


@app.command(epilog="Example: crosscast promote iris-forest@1.0.0 stable")
def promote(
    release: Annotated[
        str, typer.Argument(help="[REGISTRY/]MODEL@VERSION, or @CHANNEL.", show_default=False)
    ],
    channel: Annotated[str, typer.Argument(help="The channel.", show_default=False)],
    registry: RegistryAt = "artifacts",
) -> None:
    """Have a channel name a version from now on."""
    from crosscast.pipeline.release import channels, reference
    from crosscast.pipeline.release.registries import open_registry

    named = reference.parse(release)
    if not named.name:
        raise ConfigError(f"'{release}' names no version", fix=f"write {release}@VERSION")
    version, before = channels.promote(
        open_registry(named.registry or registry),
        model=named.model,
        name=named.name,
        channel=channel,
    )
    earlier = f" (before: {before})" if before not in (None, version) else ""
    typer.echo(f"{named.model}: {channel} is {version}{earlier}")


@app.command(epilog="Example: crosscast rollback iris-forest stable")
def rollback(
    model: Annotated[str, typer.Argument(help="[REGISTRY/]MODEL", show_default=False)],
    channel: Annotated[str, typer.Argument(help="The channel.", show_default=False)],
    registry: RegistryAt = "artifacts",
) -> None:
    """Have a channel name the version that it named before."""
    from crosscast.pipeline.release import channels, reference
    from crosscast.pipeline.release.registries import open_registry

    named = reference.parse(model)
    version, left = channels.rollback(
        open_registry(named.registry or registry), model=named.model, channel=channel
    )
    typer.echo(f"{named.model}: {channel} is {version} (before: {left})")


@app.command(epilog="Example: crosscast releases iris-forest")
def releases(
    model: Annotated[str, typer.Argument(help="[REGISTRY/]MODEL", show_default=False)],
    registry: RegistryAt = "artifacts",
    json_: AsJson = False,
) -> None:
    """List the releases of a model, and its channels with what they have named."""
    import json

    from crosscast.pipeline.release import channels, reference
    from crosscast.pipeline.release.registries import open_registry

    named = reference.parse(model)
    shelf = channels.read(open_registry(named.registry or registry), named.model)
    if json_:
        typer.echo(json.dumps(shelf.to_json(), ensure_ascii=False, indent=2))
    else:
        typer.echo(channels.describe(shelf, model=named.model))


@app.command(epilog="Example: crosscast keygen -o keys")
def keygen(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the two files.")] = Path(),
) -> None:
    """Make a pair of keys: one that signs releases, one that `pull` checks them with."""
    from crosscast.pipeline.release import signing

    private, public = signing.keygen(out)
    typer.echo(f"{private}  signs: keep it secret\n{public}  checks: give it to everybody")
