"""Calibration samples are streamed: however many there are, no step holds them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli import crosscast

pytestmark = pytest.mark.e2e

MIB = 2**20
FEW, MANY = 8, 600
SAMPLE = 3 * 224 * 224 * 4
"""Bytes of one."""

CONFIG = """\
model: small
version: 1.0.0
source: {{torch: net.py:build}}
inputs: {{image: {{shape: [1, 3, 224, 224], dtype: float32, range: [-1, 1]}}}}
samples: {{calibration: "net.py:calibration"}}
targets: {{onnx-int8: {{}}, tflite-int8: {{}}}}
"""
NET = """\
import numpy as np
from torch import nn


def build():
    layers = [nn.Conv2d(3, 8, 7, stride=8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * 26 * 26, 10))


def calibration():
    random = np.random.default_rng(0)
    for _ in range({count}):
        yield {{"image": random.uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)}}
"""


def peaks(folder: Path, count: int, overlays: Path) -> dict[str, int]:
    """Bytes at the peak of each step that handles calibration samples."""
    folder.mkdir()
    (folder / "cache").mkdir()
    (folder / "cache/overlays").symlink_to(overlays)
    (folder / "net.py").write_text(NET.format(count=count))
    (folder / "small.yaml").write_text(CONFIG.format())
    words = ("build", folder / "small.yaml", "--json", "-o", folder / "out")
    done = crosscast(*words, cache=folder / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        event["step"]: event["peak"]
        for event in events
        if event["event"] == "step_finished"
        and event["step"].startswith(("quantize", "samples calibration"))
    }


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path, overlays: Path) -> None:
    few = peaks(tmp_path / "few", FEW, overlays)
    many = peaks(tmp_path / "many", MANY, overlays)
    assert set(few) == set(many)
    assert {"quantize onnx-int8", "quantize tflite-int8"} < set(many)
    # all of them together are 340 MiB; peaks differ by some MiB from run to run
    for step, peak in many.items():
        assert peak - few[step] < (MANY - FEW) * SAMPLE / 4, (step, peak / MIB, few[step] / MIB)
