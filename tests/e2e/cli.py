"""The command, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[2] / "configs/efficientnet-lite0.yaml"


def crosscast(
    *words: str | Path, cache: Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `crosscast WORDS…` with a cache of its own."""
    return subprocess.run(
        [sys.executable, "-m", "crosscast.pipeline.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "CROSSCAST_CACHE": str(cache)},
        check=False,
    )
