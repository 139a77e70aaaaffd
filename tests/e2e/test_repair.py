"""Where int8 does not do: what is kept in float is what was damaged, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli import CONFIG as EXAMPLE
from cli import crosscast

pytestmark = pytest.mark.e2e

PLANTED = """\
import numpy as np
import torch
from torch import nn

LOUD, FACTOR = 3, 64.0


def build():
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(8)]
    with torch.no_grad():
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
        layers[LOUD].weight[0] *= FACTOR
        layers[LOUD + 1].weight[:, 0] /= FACTOR
    steps = [
        step
        for place, layer in enumerate(layers)
        for step in ([layer] if place in (LOUD, 7) else [layer, nn.ReLU()])
    ]
    return nn.Sequential(*steps)


def samples(seed):
    random = np.random.default_rng(seed)
    for _ in range(8):
        yield {"x": random.normal(size=(1, 16, 12, 12)).astype(np.float32)}


def calibration():
    yield from samples(1)


def parity():
    yield from samples(2)
"""
"""Eight convolutions; one channel between the fourth and the fifth is 64 times as large as the
others, and is scaled down where it is read: int8 has four levels for the others there."""

CONFIG = """\
model: planted
version: 1.0.0
source: {{torch: net.py:build}}
inputs: {{x: {{shape: [1, 16, 12, 12], dtype: float32, range: [-5, 5]}}}}
samples: {{calibration: "net.py:calibration", parity: "net.py:parity"}}
targets: {{{targets}}}
"""
TARGETS = ("onnx-int8", "tflite-int8")


def build(folder: Path, cache: Path, options: str) -> Any:
    (folder / "net.py").write_text(PLANTED)
    targets = ", ".join(f"{target}: {{{options}}}" for target in TARGETS)
    (folder / "planted.yaml").write_text(CONFIG.format(targets=targets))
    return crosscast("build", folder / "planted.yaml", "-o", folder / "out", cache=cache)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


def test_the_damaged_layers_and_no_others_are_kept(folder: Path, cache: Path) -> None:
    done = build(folder, cache, "")
    assert done.returncode == 0, done.stdout + done.stderr
    for target in TARGETS:
        artifact = folder / "out/planted/1.0.0" / target
        manifest = json.loads((artifact / "manifest.json").read_text())
        kept = manifest["precision"]["kept_in_float"]
        assert len(kept["operators"]) == 2, kept
        assert all(
            re.search(r"dB (beyond|within) the limits$", w) for w in kept["operators"].values()
        )
        assert kept["room_db"]["int8"] < 0 <= kept["room_db"]["delivered"]
        size = next(e["size"] for e in manifest["files"] if e["path"].startswith("model."))
        assert kept["bytes"]["delivered"] == size < kept["bytes"]["float"]
        assert kept["bytes"]["int8"] < kept["bytes"]["float"]
        shown = crosscast("show", artifact, cache=cache)
        line = r"2 of (8|14) operators in float \(.*\): .* within the limits, all in int8 .* beyond"
        assert re.search(rf"note: +.*{line}", shown.stdout)
        assert re.search(rf"{target} +passed: .*{line}", done.stdout)


def test_the_kept_operators_are_those_at_the_planted_place(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    artifact = folder / "out/planted/1.0.0/onnx-int8"
    manifest = json.loads((artifact / "manifest.json").read_text())
    kept = manifest["precision"]["kept_in_float"]["operators"]
    graph = onnx.load(artifact / "model.onnx").graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    assert list(kept) == convolutions[3:5]


def test_left_as_it_is_the_gate_refuses_it(folder: Path, cache: Path) -> None:
    done = build(folder, cache, "on_mismatch: fail")
    assert done.returncode == 4, done.stdout + done.stderr
    for target in TARGETS:
        found = re.search(rf"{target} +failed: .*snr_db is ([\d.]+), the limit is 17", done.stdout)
        assert found
        assert np.isfinite(float(found[1]))
    assert "on_mismatch: keep-float" in done.stdout


def every_operator(folder: Path, name: str, **given: Any) -> dict[str, Any]:
    """A config of a model of the examples or the benchmarks with every operator in int8."""
    if name == "efficientnet-lite0":
        (folder / "zoo").symlink_to(EXAMPLE.parent / "zoo")
        config = yaml.safe_load(EXAMPLE.read_text())
        return config | {"targets": {"onnx-int8": given}}
    return {
        "model": name,
        "version": "1.0.0",
        "source": {"torch": f"{EXAMPLE.parents[1]}/benchmarks/architectures.py:{name}"},
        "inputs": {"pixel_values": {"shape": [1, 3, 64, 64], "dtype": "float32", "range": [0, 1]}},
        "samples": {"calibration": "synthetic"},
        "targets": {"onnx-int8": given},
    }


@pytest.mark.parametrize(
    ("name", "quantize", "most"),
    [("efficientnet-lite0", {"per_channel": False}, 25), ("vit", {}, 16)],
)
def test_full_int8_fails_and_is_repaired_by_few_operators(
    tmp_path: Path, cache: Path, name: str, quantize: dict[str, Any], most: int
) -> None:
    """A scale for a whole weight is too coarse for EfficientNet-Lite0; int8 sums and normalisations
    for a transformer. most: of 93 and 78 operators, half as many again as were measured.
    """
    options = {"quantize": {"operators": "all", **quantize}}
    ends = {"fail": 4, "keep-float": 0}
    for on_mismatch, code in ends.items():
        place = tmp_path / on_mismatch
        place.mkdir()
        config = every_operator(place, name, **options, on_mismatch=on_mismatch)
        (place / "c.yaml").write_text(yaml.safe_dump(config))
        done = crosscast("build", place / "c.yaml", "-o", place / "out", cache=cache)
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            assert re.search(
                r"onnx-int8 +failed: .*snr_db is -?[\d.]+, the limit is 17", done.stdout
            )
    artifact = tmp_path / f"keep-float/out/{name}/1.0.0/onnx-int8"
    kept = json.loads((artifact / "manifest.json").read_text())["precision"]["kept_in_float"]
    assert 0 < len(kept["operators"]) <= most
    assert kept["room_db"]["int8"] < 0 <= kept["room_db"]["delivered"]
    assert kept["bytes"]["delivered"] < kept["bytes"]["float"] / 2
    assert kept["trials"] <= 40
