"""Commands about a config, its build and an artifact that came out."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosscast.pipeline.cli.common import (
    AsJson,
    Configs,
    OneConfig,
    RegistryAt,
    Targets,
    Verbose,
    app,
    console,
    open_store,
    settings_for,
)
from crosscast.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from crosscast.pipeline.report.console import JsonLines, LiveConsole


@app.command(epilog="Example: crosscast init model.onnx -o model.yaml")
def init(
    model: Annotated[
        str,
        typer.Argument(
            help="A model file, its url, a SavedModel directory, or file.py:function.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The config.", show_default=False)],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="A target to build (repeatable). Default: ONNX and TFLite, float and int8.",
            show_default=False,
        ),
    ] = None,
    sha256: Annotated[
        str, typer.Option("--sha256", help="Digest of a file that MODEL is the url of.")
    ] = "",
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Load a pickle, which can run any code.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the config.")] = False,
) -> None:
    """Write a config for a model by looking at it, ready to build.

    Exit codes: 0 written; 1 the model cannot be looked at, or does not tell its inputs; 2 usage,
    or a target that cannot take the model; 3 its framework is not installed.
    """
    from crosscast.pipeline.init import command
    from crosscast.pipeline.runner import Settings

    written = command.write(
        model,
        out,
        targets=target or (),
        sha256=sha256,
        trusted=trusted,
        force=force,
        store=open_store(),
        settings=Settings(artifacts=out),
        say=typer.echo,
    )
    typer.echo(command.described(written))


@app.command(epilog="Example: crosscast check configs/*.yaml")
def check(configs: Configs) -> None:
    """Check that configs are valid; lists every error of each with its line."""
    from crosscast.pipeline.config.load import load
    from crosscast.pipeline.planner import plan

    errors = []
    for path in configs:
        try:
            plan(load(path))
            typer.echo(f"{path}: ok")
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(errors))


@app.command(epilog="Example: crosscast plan configs/efficientnet-lite0.yaml")
def plan(
    config: OneConfig,
    target: Targets = None,
    force: Annotated[bool, typer.Option("--force", help="As `build --force` would.")] = False,
    json_: AsJson = False,
) -> None:
    """Show the steps of a build, which of them would run, and why."""
    import json
    from dataclasses import asdict

    from crosscast.pipeline.build import preview
    from crosscast.pipeline.config.load import load

    forecasts = preview(load(config), store=open_store(), only=target or (), force=force)
    for entry in forecasts:
        if json_:
            typer.echo(json.dumps(asdict(entry), ensure_ascii=False))
        else:
            reason = f"  ({entry.reason})" if entry.reason else ""
            typer.echo(f"{entry.action:<7} {entry.step}{reason}")


@app.command(epilog="Example: crosscast build configs/efficientnet-lite0.yaml -t tflite-int8 -v")
def build(
    configs: Configs,
    target: Targets = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where artifacts go.")] = Path(
        "artifacts"
    ),
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Steps at a time. Default: one a core."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory for all steps, such as 8GiB. Default: 90 % of what is free."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run every step.")] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going/--fail-fast", help="Go on with what a failure leaves possible."),
    ] = True,
    verbose: Verbose = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print events as JSON lines instead of text.")
    ] = False,
) -> None:
    """Build, prove and package the targets of configs.

    Exit codes: 0 all done; 1 a stage failed; 2 usage or config; 3 a toolchain or runtime is
    missing; 4 an artifact was not proven; 130 interrupted.
    """
    from crosscast.pipeline import build as work
    from crosscast.pipeline.config.load import load
    from crosscast.pipeline.events import BuildFinished, Event, TargetFinished
    from crosscast.pipeline.report.console import summary
    from crosscast.pipeline.runner import worst

    store, ended, codes = open_store(), [], []
    for config in [load(path) for path in configs]:
        settings = settings_for(
            config, artifacts=out, jobs=jobs, memory=memory, force=force, keep_going=keep_going
        )
        with console(json_=json_, verbose=verbose) as show:

            def emit(event: Event, show: JsonLines | LiveConsole = show) -> None:
                ended.append(event)
                show(event)

            codes.append(
                work.build(config, store=store, settings=settings, emit=emit, only=target or ())
            )
    if not json_:
        typer.echo(summary([event for event in ended if isinstance(event, TargetFinished)]))
        for event in ended:
            if isinstance(event, BuildFinished):
                typer.echo(f"{event.ran} steps run, {event.cached} cached, {event.seconds:.1f} s")
    raise typer.Exit(worst(codes))


@app.command(epilog="Example: crosscast verify artifacts/efficientnet-lite0@stable")
def verify(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DIR|[REGISTRY/]MODEL[@VERSION|@CHANNEL]",
            help="An artifact's directory, or a release: by its name or its directory.",
            show_default=False,
        ),
    ],
    target: Targets = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key: refuse a release it did not sign.")
    ] = None,
    registry: RegistryAt = "artifacts",
    json_: AsJson = False,
) -> None:
    """Prove an artifact, or every one of a release, again from its own test vectors, without its
    source, in the runtimes that are installed now.

    Exit codes: 0 all proven, or allowed by the release to be unverified; 1 a worker did not end
    well; 2 usage; 3 a runtime is missing; 4 one was not proven; 6 the registry, a digest or a
    signature was refused.
    """
    from crosscast.pipeline.release import located

    if located.is_named(what, registry=registry):
        raise typer.Exit(_verify_release(what, target or (), key, registry, json_=json_))
    if target or key:
        raise ConfigError(
            f"{what}: --target and --key are of a release",
            fix="name the release: [REGISTRY/]MODEL@VERSION, or its directory",
        )
    raise typer.Exit(_verify_artifact(Path(what), json_=json_))


def _verify_artifact(artifact: Path, *, json_: bool) -> int:
    import json

    from crosscast.pipeline import build as work
    from crosscast.pipeline.runner import Settings

    verdict = work.verify(artifact, store=open_store(), settings=Settings(artifacts=artifact))
    if json_:
        typer.echo(json.dumps(verdict, ensure_ascii=False, indent=2))
    else:
        reason = f": {verdict['reason']}" if verdict["reason"] else ""
        typer.echo(f"{artifact}: {verdict['status']}{reason}")
    return work.verdict_code(verdict)


def _verify_release(
    name: str, targets: Collection[str], key: Path | None, registry: str, *, json_: bool
) -> int:
    import json

    from crosscast.pipeline.release import located, reverify, wording
    from crosscast.pipeline.runner import Settings, worst

    def say(text: str) -> None:
        if not json_:
            typer.echo(text)

    found = located.find(name, registry=registry, key=key)
    say(wording.headline(found, signed=key is not None))
    proofs = []
    for proof in reverify.prove(
        found, only=targets, store=open_store(), settings=Settings(artifacts=Path(registry))
    ):
        say(reverify.describe(proof))
        proofs.append(proof)
    say(reverify.summary(found, proofs))
    code = worst([proof.code for proof in proofs])
    if json_:
        told = reverify.to_json(found, proofs, code=code, signed=key is not None)
        typer.echo(json.dumps(told, ensure_ascii=False, indent=2))
    return code


@app.command(epilog="Example: crosscast explain artifacts/efficientnet-lite0/1.0.0/tflite-int8")
def explain(
    artifact: Annotated[Path, typer.Argument(help="An artifact's directory.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="What it was built from. Default: what it was built from here."
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Say which layer an artifact's error comes from, by comparing all tensors with the source's.

    Exit codes: 0 said; 1 a stage failed; 2 usage or config; 3 a runtime is missing.
    """
    import json

    from crosscast.pipeline import build as work
    from crosscast.pipeline.events import Event
    from crosscast.pipeline.report.console import describe
    from crosscast.pipeline.runner import Settings

    def emit(event: Event) -> None:
        text = describe(event, verbose=False)
        if text:
            typer.echo(text, err=True)

    found = work.explain(
        artifact,
        config=config,
        store=open_store(),
        settings=Settings(artifacts=artifact),
        emit=emit,
    )
    if json_:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        reason = f": {found['reason']}" if found["reason"] else ""
        typer.echo("\n".join([f"{artifact}: {found['status']}{reason}", *found["lines"]]))


@app.command(epilog="Example: crosscast show artifacts/efficientnet-lite0/1.0.0/onnx-int8")
def show(
    artifact: Annotated[Path, typer.Argument(help="An artifact's directory.", show_default=False)],
    json_: AsJson = False,
) -> None:
    """Show an artifact: files, inputs and outputs, precision, verdict."""
    import json

    from crosscast.pipeline import manifest as manifests
    from crosscast.pipeline.report.artifact import describe

    manifest = manifests.read(artifact)
    typer.echo(json.dumps(manifest, ensure_ascii=False, indent=2) if json_ else describe(manifest))
