"""Run one command; the one place where errors become text and exit codes."""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from typing import Any

import typer
from typer.exceptions import TyperException

from crosscast.pipeline.cli import builds, health, pulls, releases, schedules
from crosscast.pipeline.cli.common import app
from crosscast.pipeline.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    ConfigError,
    CrosscastError,
    StageError,
)

COMMANDS = (builds, health, pulls, releases, schedules)
"""Each registers its commands with `app` as it is imported."""


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
