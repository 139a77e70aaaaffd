"""What docs/ says of numbers is what the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscast.pipeline.parity.chain import BEFORE
from crosscast.pipeline.parity.tolerance import TOLERANCES

ROOT = Path(__file__).parents[1]
PARITY = (ROOT / "docs/parity.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_limit_stands_there_with_its_reason(precision: str) -> None:
    limits = TOLERANCES[precision]
    numbers = (limits.min_snr_db, limits.max_error, limits.max_mismatch)
    cells = [precision, *(f"{number:g}" for number in numbers), limits.reason]
    assert f"| {' | '.join(cells)} |\n" in PARITY


def test_it_says_what_reasons_begin_with() -> None:
    assert f"`{BEFORE}:`" in PARITY


def test_what_it_links_to_is_there() -> None:
    links = [part.partition(")")[0] for part in PARITY.split("](")[1:]]
    assert links
    assert all((ROOT / "docs" / link).is_file() for link in links)
