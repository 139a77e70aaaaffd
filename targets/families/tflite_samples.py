"""Calibration samples, streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from crosscast.pipeline.signature import Arrays


def calibration(samples: Path) -> Iterator[Arrays]:
    """The samples of a tree, one in memory at a time."""
    from safetensors.numpy import load_file

    for case in json.loads((samples / "cases.json").read_text(encoding="utf-8")):
        yield load_file(samples / case["file"])
