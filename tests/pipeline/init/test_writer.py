"""The config's text: what a person reads, and what the loader reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crosscast.pipeline.config.load import load
from crosscast.pipeline.init.choice import Choice
from crosscast.pipeline.init.facts import Facts, Input
from crosscast.pipeline.init.writer import Heading, scalar, template, text

HEADING = Heading(schema="../schema.json", model="tiny", version="0.1.0")
FACTS = Facts(
    source={"weights": "w.pt", "torch": "net.py:build"},
    inputs=(
        Input(
            name="serving:0",
            shape=("batch", "time"),
            dtype="int64",
            range=(0, 99),
            why="it indexes a table of 100 rows",
        ),
        Input(name="mask", shape=("batch", "time"), dtype="bool"),
        Input(name="h", shape=("batch", 8), dtype="float32", fed_by="h:1"),
    ),
    dims={"batch": (1, 4), "time": (1, 64)},
    notes=("A PyTorch model: Net.",),
)
CHOICE = Choice(
    targets={"onnx": {}, "onnx-int8": {"opset": 13}},
    left_out={"tflite-fp32": "text inputs"},
    why_int8="static int8 suits convolutions",
)
TEXT = """\
# yaml-language-server: $schema=../schema.json
# A PyTorch model: Net.
model: tiny
version: 0.1.0
source:
  torch: net.py:build
  weights: w.pt
inputs:
  "serving:0":
    shape: [batch, time]
    dtype: int64
    range: [0, 99]                           # it indexes a table of 100 rows
    batch: [1, 4]                            # least and greatest size that is proven
    time: [1, 64]                            # least and greatest size that is proven
  mask:
    shape: [batch, time]
    dtype: bool
  h:
    shape: [batch, 8]
    dtype: float32
    fed_by: "h:1"                            # a state: its next value, by name, shape and dtype
samples:
  calibration: synthetic                     # made from the declared ranges: put real inputs here \
(file.py:function or .npz)
targets:
  # int8: static int8 suits convolutions
  onnx: {}
  onnx-int8: {opset: 13}
  # tflite-fp32 is left out: text inputs
"""


def test_the_whole_text() -> None:
    assert text(HEADING, FACTS, CHOICE, calibrated=True) == TEXT


def test_it_loads(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(): ...\n")
    (tmp_path / "w.pt").write_bytes(b"x")
    path = tmp_path / "m.yaml"
    path.write_text(text(HEADING, FACTS, CHOICE, calibrated=True), encoding="utf-8")
    config = load(path)
    assert config.signature().dims == {"batch": (1, 4), "time": (1, 64)}
    assert list(config.targets) == ["onnx", "onnx-int8"]


@pytest.mark.parametrize(
    "value",
    [
        1,
        -1.5,
        2.0,
        1e-7,
        True,
        None,
        "image",
        "no",
        "y",
        "null",
        "1",
        "1e5",
        "a: b",
        "x # y",
        "naïve",
        "../m.onnx",
        "a b/m.onnx",
        "tab\tand\nline",
        "",
        "- x",
        "{a}",
        [1, "batch"],
        {"url": "https://x/y", "n": [1.0, 2.5]},
    ],
)
def test_every_scalar_is_read_back(value: Any) -> None:
    assert yaml.safe_load(f"{{key: {scalar(value)}}}") == {"key": value}


def test_a_dollar_is_no_variable() -> None:
    assert scalar("a$b") == '"a$$b"'


def test_facts_survive_json() -> None:
    import json

    assert Facts.from_json(json.loads(json.dumps(FACTS.to_json()))) == FACTS


def test_a_template_is_yaml() -> None:
    found = yaml.safe_load(template("m", "torch: net.py:build", ["x", "y"]))
    assert list(found["inputs"]) == ["x", "y"]
