"""What docs/ says of numbers is what the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscast.pipeline.config.devices import DeviceLimits, Profile
from crosscast.pipeline.config.load import load
from crosscast.pipeline.parity.chain import BEFORE
from crosscast.pipeline.parity.tolerance import TOLERANCES

ROOT = Path(__file__).parents[1]
PARITY = (ROOT / "docs/parity.md").read_text(encoding="utf-8")
DEVICES = (ROOT / "docs/devices.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_limit_stands_there_with_its_reason(precision: str) -> None:
    limits = TOLERANCES[precision]
    numbers = (limits.min_snr_db, limits.max_error, limits.max_mismatch)
    cells = [precision, *(f"{number:g}" for number in numbers), limits.reason]
    assert f"| {' | '.join(cells)} |\n" in PARITY


def test_it_says_what_reasons_begin_with() -> None:
    assert f"`{BEFORE}:`" in PARITY


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
def test_what_it_links_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert all((page.parent / link).is_file() for link in links)


def test_every_page_is_named_by_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"docs/{page.name}" in readme for page in (ROOT / "docs").glob("*.md"))


def test_every_key_of_a_device_is_explained() -> None:
    keys = {key for key in Profile.model_fields if key != "limits"}
    keys |= {f"limits.{key}" for key in DeviceLimits.model_fields}
    rows = [line.split("`")[1] for line in DEVICES.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(keys)


def test_its_example_of_devices_is_a_valid_config(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    (tmp_path / "m.yaml").write_text(
        "model: m\nversion: 1.0.0\nsource: {onnx: m.onnx}\n"
        "samples: {calibration: synthetic}\n"
        "targets: {tflite-int8: {}}\n" + DEVICES.split("```yaml\n")[1].partition("```")[0]
    )
    assert list(load(tmp_path / "m.yaml").release.devices) == ["kiosk", "counter"]
