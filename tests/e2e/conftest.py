"""The example, built once for all tests of what comes out of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline" / "release"))
sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # mutants are shared

from cli import CONFIG, crosscast
from places import Place, opened


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, overlays: Path) -> Path:
    """The cache that the example was built in."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "overlays").symlink_to(overlays)
    return cache


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The directory of the example's artifacts, one for each target."""
    out = tmp_path_factory.mktemp("artifacts")
    done = crosscast("build", CONFIG, "--out", out, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "efficientnet-lite0" / "1.0.0"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    """All registries, by kind."""
    with opened(tmp_path_factory.mktemp("places")) as found:
        yield found


@pytest.fixture
def place(places: dict[str, Place], request: pytest.FixtureRequest) -> Place:
    """The registry of the kind that is asked for."""
    return places[request.param]
