"""What of a torch source is known without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.config.load import load
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.sources import open_source

INPUTS = "inputs: {x: {shape: [1, 4], dtype: float32}}\n"


def config(folder: Path, source: str, more: str = INPUTS) -> Any:
    (folder / "net.py").write_text("def build(): ...\n")
    for name in ("model.pt2", "w.pth"):
        (folder / name).write_bytes(b"\x80\x02")
    path = folder / "c.yaml"
    path.write_text(
        f"model: net\nversion: 1.0.0\nsource: {source}\n{more}targets: {{onnx: {{}}}}\n"
    )
    return load(path)


def test_a_factory_and_a_file_are_told_apart(tmp_path: Path) -> None:
    made = config(
        tmp_path,
        "{torch: net.py:build, weights: w.pth, weights_key: ema, weights_prefix: m., "
        "submodule: a.b, freeze: {rate: 16000, flag: true, mode: fast, scale: 0.5, none: null}}",
    ).source.to_source()
    assert made == {
        "kind": "torch",
        "factory": f"{tmp_path}/net.py:build",
        "file": None,
        "weights": f"{tmp_path}/w.pth",
        "weights_key": "ema",
        "weights_prefix": "m.",
        "submodule": "a.b",
        "freeze": {"rate": 16000, "flag": True, "mode": "fast", "scale": 0.5, "none": None},
    }
    assert json.dumps(made["freeze"]["flag"]) == "true"
    read = config(tmp_path, "{torch: model.pt2}", more="").source.to_source()
    assert (read["factory"], read["file"]) == (None, f"{tmp_path}/model.pt2")
    assert open_source(read).files(read) == {"model": tmp_path / "model.pt2"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{torch: net.py:build, weights_key: ema}", "choose from a file of 'weights'"),
        ("{torch: model.pt2, weights: w.pth}", "has its weights in it; remove 'weights'"),
        ("{torch: net.py}", "expected 'file.py:function', got 'net.py'"),
        ("{torch: none.pt2}", "no such file: 'none.pt2'"),
        ("{torch: net.py:build, freeze: {rate: [1]}}", "source.freeze.rate: expected"),
    ],
)
def test_wrong_sources_are_told(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, source)
    assert message in str(caught.value)


def test_a_factory_needs_declared_inputs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a torch source does not state its inputs"):
        config(tmp_path, "{torch: net.py:build}", more="")
