"""Every command of the README is run, and every example config is built."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("crosscast ")
]
MAKE = [line for block in BLOCKS for line in block.splitlines() if line.startswith("make ")]

NET = """
import numpy as np
import torch


def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                               torch.nn.Linear(4 * 36, 5))


def samples(seed=0, number=4):
    random = np.random.default_rng(seed)
    for _ in range(number):
        yield {"image": random.uniform(-1, 1, (1, 3, 8, 8)).astype("float32")}


def calibration():
    return samples(1, number=64)
"""
CONFIG = """
model: m
version: 1.0.0
source: {torch: net.py:build}
inputs: {image: {shape: [batch, 3, 8, 8], dtype: float32, range: [-1, 1]}}
samples: {parity: net.py:samples, calibration: net.py:calibration}
targets: {onnx: {}, tflite-int8: {}}
release: {schedule: "0 3 * * 1-5"}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, overlays: Path) -> Path:
    path = tmp_path_factory.mktemp("project")
    (path / "net.py").write_text(NET)
    (path / "model.yaml").write_text(CONFIG)
    (path / "cache").mkdir()
    (path / "cache/overlays").symlink_to(overlays)
    return path


def test_the_readme_has_commands() -> None:
    assert {words[1] for words in COMMANDS} == {
        "init",
        "check",
        "plan",
        "build",
        "verify",
        "explain",
        "show",
        "targets",
        "doctor",
        "keygen",
        "release",
        "promote",
        "releases",
        "diff",
        "pull",
        "devices",
        "schedule",
    }
    assert MAKE == ["make demo", "make test"]


# In the README's order: `verify`, `explain` and `show` read what `build` has written.
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_command_works(words: list[str], project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crosscast.pipeline.cli", *words[1:]],
        cwd=project,
        env={**os.environ, "CROSSCAST_CACHE": str(project / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_is_a_valid_config_that_a_test_builds(config: Path) -> None:
    from crosscast.pipeline.config.load import load

    assert load(config).targets
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    assert f"configs/{config.name}" in tests.replace(Path(__file__).read_text(), "")
