"""What commands share: the app that they register with, options, and what a run is made of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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


def settings_for(
    config: Config,
    *,
    artifacts: Path,
    jobs: int | None = None,
    memory: str | None = None,
    force: bool = False,
    keep_going: bool = True,
) -> Settings:
    """What a run of this config is made of; None for what the machine decides."""
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


def console(*, json_: bool, verbose: bool) -> JsonLines | LiveConsole:
    from crosscast.pipeline.report.console import JsonLines, LiveConsole, PlainLines

    if json_:
        return JsonLines()
    return LiveConsole(verbose=verbose) if sys.stdout.isatty() else PlainLines(verbose=verbose)


def open_store() -> Store:
    from crosscast.pipeline.store import Store, default_root

    return Store(default_root())
