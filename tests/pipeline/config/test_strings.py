"""Inputs that are strings, and scikit-learn sources, in a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscast.pipeline.config.load import load
from crosscast.pipeline.errors import ConfigError

CONFIG = """\
model: m
version: 1.0.0
source: {{sklearn: {source}}}
inputs:
  text: {input}
targets: {{onnx: {{}}}}
"""


def written(tmp_path: Path, *, source: str = "m.skops", input: str = "") -> Path:
    (tmp_path / "m.skops").touch()
    (tmp_path / "zoo.py").write_text("def build(): ...\n")
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(source=source, input=input or "{shape: [batch], dtype: string}"))
    return path


def test_strings_may_have_values(tmp_path: Path) -> None:
    declared = "{shape: [batch, 1], dtype: string, values: ['', red, 'naïve']}"
    tensor = load(written(tmp_path, input=declared)).signature().inputs[0]
    assert tensor.dtype == "string"
    assert tensor.values == ("", "red", "naïve")


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("{shape: [n], dtype: string, range: [0, 1]}", "a string input has no range"),
        ("{shape: [n], dtype: float32, values: [a]}", "only a string input has values"),
        ("{shape: [n], dtype: string, values: []}", "values"),
        ('{shape: [n], dtype: string, values: ["a\\0"]}', "NUL"),
    ],
)
def test_what_a_string_cannot_have_is_refused(tmp_path: Path, declared: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(written(tmp_path, input=declared))


@pytest.mark.parametrize(("source", "trusted"), [("m.skops", False), ("zoo.py:build", True)])
def test_a_source_is_a_file_or_a_function(tmp_path: Path, source: str, trusted: bool) -> None:
    more = f"{source}, trusted: true" if trusted else source
    options = load(written(tmp_path, source=more)).source.to_source()
    assert options == {"kind": "sklearn", "model": str(tmp_path / source), "trusted": trusted}
