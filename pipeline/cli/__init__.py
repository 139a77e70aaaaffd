"""The `crosscast` command: parse, call, print. What a command needs is imported when it runs, so
that `--help` costs nothing.
"""

from crosscast.pipeline.cli.common import app
from crosscast.pipeline.cli.dispatch import main, run

__all__ = ["app", "main", "run"]
