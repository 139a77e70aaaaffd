"""The `crosscast` command: parse, call, print. What a command needs is imported when it runs, so
that `--help` costs nothing.
"""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from crosscast.pipeline.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    ConfigError,
    CrosscastError,
    StageError,
)

if TYPE_CHECKING:
    from crosscast.pipeline.config.schema import Config
    from crosscast.pipeline.report.console import JsonLines, LiveConsole
    from crosscast.pipeline.runner import Settings
    from crosscast.pipeline.store import Store

app = typer.Typer(
    name="crosscast",
    help="One model in, every device out, each artifact proven.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Configs = Annotated[list[Path], typer.Argument(help="Config files.", show_default=False)]
OneConfig = Annotated[Path, typer.Argument(help="A config file.", show_default=False)]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="Only this target (repeatable).", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RegistryAt = Annotated[
    str,
    typer.Option(
        "--registry", help="A directory, or the url of a registry.", show_default="artifacts"
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say why each step runs.")]


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
        store=_store(),
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

    forecasts = preview(load(config), store=_store(), only=target or (), force=force)
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

    store, ended, codes = _store(), [], []
    for config in [load(path) for path in configs]:
        settings = _settings(
            config, artifacts=out, jobs=jobs, memory=memory, force=force, keep_going=keep_going
        )
        with _console(json_=json_, verbose=verbose) as show:

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


@app.command(epilog="Example: crosscast verify artifacts/efficientnet-lite0/1.0.0/tflite-int8")
def verify(
    artifact: Annotated[Path, typer.Argument(help="An artifact's directory.", show_default=False)],
    json_: AsJson = False,
) -> None:
    """Prove an artifact again from its own test vectors, without its source."""
    import json

    from crosscast.pipeline import build as work
    from crosscast.pipeline.runner import Settings

    verdict = work.verify(artifact, store=_store(), settings=Settings(artifacts=artifact))
    if json_:
        typer.echo(json.dumps(verdict, ensure_ascii=False, indent=2))
    else:
        reason = f": {verdict['reason']}" if verdict["reason"] else ""
        typer.echo(f"{artifact}: {verdict['status']}{reason}")
    raise typer.Exit(work.verdict_code(verdict))


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
        store=_store(),
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
    settings = _settings(
        loaded, artifacts=out, jobs=None, memory=None, force=False, keep_going=True
    )
    with _console(json_=json_, verbose=verbose) as show:

        def emit(event: Event) -> None:
            show(event)
            if isinstance(event, TargetFinished) and event.status != "passed" and not json_:
                typer.echo(f"{event.target}  {event.status}: {event.reason}")

        ended = publish.release(loaded, wanted, store=_store(), settings=settings, emit=emit)
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
    store = _store()
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


@app.command(epilog="Example: crosscast targets")
def targets() -> None:
    """List the targets, and whether they can be built and run here."""
    from crosscast.pipeline import doctor

    for health in doctor.targets(_store().root):
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

    cache = _store().root
    if build_overlays:
        for path in checks.build_overlays(cache):
            typer.echo(f"overlay: {path}")
    typer.echo(describe(checks.toolchains(cache), checks.targets(cache)))


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


def main() -> None:
    """Run the command line; the one place where errors become text and exit codes."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; gives its exit code."""
    if not arguments:
        run(["--help"])
        return ConfigError.exit_code
    try:
        code: Any = app(args=arguments, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except CrosscastError as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    except typer.Exit as error:
        return error.exit_code
    except TyperException as error:
        text = getattr(error, "format_message", error.__str__)()  # it names the option
        typer.echo(f"error: {text}\n  fix: see `crosscast --help`", err=True)
        return ConfigError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except OSError as error:
        return _disk_full(error) if error.errno == errno.ENOSPC else _bug(error)
    except Exception as error:  # noqa: BLE001 - the one handler at the top
        return _bug(error)
    return code if isinstance(code, int) else 0


def _disk_full(error: OSError) -> int:
    place = f"of {error.filename}" if error.filename else "that the output goes to"
    typer.echo(
        f"error: no space left on the disk {place}\n"
        "  fix: free some and build again; what was finished is kept",
        err=True,
    )
    return StageError.exit_code


def _bug(error: Exception) -> int:
    typer.echo(
        f"error: this is a bug in crosscast: {type(error).__name__}: {error}\n"
        f"  fix: please report it with {_traceback_log()}",
        err=True,
    )
    return EXIT_BUG


def _traceback_log() -> str:
    """The path of a file with the traceback of what is being handled."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="crosscast-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            traceback.print_exc(file=log)
        return log.name
    except OSError:  # nowhere to write it
        return f"this:\n{traceback.format_exc()}"


def _settings(
    config: Config,
    *,
    artifacts: Path,
    jobs: int | None,
    memory: str | None,
    force: bool,
    keep_going: bool,
) -> Settings:
    from crosscast.pipeline.config.schema import parse_bytes
    from crosscast.pipeline.runner import Settings

    given: dict[str, Any] = {"jobs": jobs, "memory": parse_bytes(memory) if memory else None}
    return Settings(
        artifacts=artifacts,
        timeout=config.limits.timeout,
        step_memory=config.limits.memory,
        force=force,
        keep_going=keep_going,
        **{name: value for name, value in given.items() if value is not None},
    )


def _console(*, json_: bool, verbose: bool) -> JsonLines | LiveConsole:
    from crosscast.pipeline.report.console import JsonLines, LiveConsole, PlainLines

    if json_:
        return JsonLines()
    return LiveConsole(verbose=verbose) if sys.stdout.isatty() else PlainLines(verbose=verbose)


def _store() -> Store:
    from crosscast.pipeline.store import Store, default_root

    return Store(default_root())


if __name__ == "__main__":
    main()
