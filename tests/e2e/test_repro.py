"""A step that failed is repeated from the directory that it left, by a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli import crosscast

pytestmark = pytest.mark.e2e

NET = """
import torch


class Determinant(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.det(x)


class Product(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)
"""


def built(root: Path, net: str, target: str, cache: Path) -> tuple[int, list[dict[str, Any]]]:
    """Build a config for a target: the exit code and the events."""
    (root / "net.py").write_text(NET)
    config = root / "net.yaml"
    config.write_text(
        f"model: net\nversion: 1.0.0\nsource: {{torch: net.py:{net}}}\n"
        f"inputs: {{x: {{shape: [batch, 3, 3], dtype: float32, range: [-1, 1]}}}}\n"
        f"targets: {{{target}}}\n"
    )
    done = crosscast("build", config, "--json", "--out", root / "out", cache=cache)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def repeated(command: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run it as a person does, once the store's trees are gone."""
    shutil.rmtree(cache / "trees")
    return subprocess.run(command.split(), capture_output=True, text=True, check=False)


def test_a_conversion_that_cannot_be_made(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code, events = built(tmp_path, "Determinant", "coreml-fp16: {}", cache)
    assert code == 1
    (failed,) = (each for each in events if each["event"] == "step_failed")
    assert failed["step"].startswith("convert coreml-fp16")
    again = repeated(failed["repeat"], cache)
    assert again.returncode == code, again.stdout + again.stderr
    line = f"FAILED  {failed['step']} [error]: {failed['message']}"
    assert again.stdout.startswith(f"{line}\n        fix: {failed['fix']}\n")
    assert "Traceback" not in again.stdout + again.stderr


def test_a_verdict_that_failed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    limits = "parity: {min_snr_db: 400, reason: none reaches it}"
    code, events = built(tmp_path, "Product", f"onnx-fp16: {{{limits}}}", cache)
    assert code == 4
    (ended,) = (each for each in events if each["event"] == "target_finished")
    assert ended["status"] == "failed"
    again = repeated(ended["repeat"], cache)
    assert again.returncode == code, again.stdout + again.stderr
    # what it was explained by is no part of the step
    verdict = ended["reason"].partition("\n")[0]
    assert again.stdout == f"verify onnx-fp16  failed: {verdict}\n"
