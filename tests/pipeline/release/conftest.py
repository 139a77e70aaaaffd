"""Makes the helpers beside the tests importable; the shop that releases are made in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crosscast.pipeline.release import publish, reproducible

if TYPE_CHECKING:
    from shop import Shop

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    from shop import Shop

    made = Shop(tmp_path)
    monkeypatch.setattr(publish, "build", made.build)
    monkeypatch.setattr(reproducible, "build", made.build)
    return made
