"""What all tests share: the user's real cache is out of their reach, but for the overlays."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscast.pipeline.store import default_root

REAL_CACHE = default_root()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSCAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def overlays() -> Path:
    """The directory of built overlays, shared with the user's own builds since each is pinned by
    its lock file's digest."""
    from crosscast.pipeline import doctor

    doctor.build_overlays(REAL_CACHE)
    return REAL_CACHE / "overlays"
