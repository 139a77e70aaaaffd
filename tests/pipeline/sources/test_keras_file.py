"""What can be told of a Keras file without Keras."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.keras_file import read


def archive(path: Path, config: Any) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
    return path


@pytest.mark.parametrize(
    "function",
    [
        {"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}},
        {"function_type": "lambda", "function": ["4wEA", None, None]},
    ],
    ids=["keras 3", "keras 2"],
)
def test_bytecode_is_refused_before_it_is_loaded(function: Any, tmp_path: Path) -> None:
    layer = {"class_name": "Lambda", "config": {"name": "twice", **function}}
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": [layer]}}
    with pytest.raises(StageError, match=r"bytecode \(layer 'twice'\)"):
        read(archive(tmp_path / "net.keras", config), trusted=False)


def test_an_archive_without_a_config_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights.bin", b"")
    with pytest.raises(StageError, match=r"without config.json: it holds weights.bin"):
        read(path, trusted=False)


def test_a_page_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(StageError, match="is a web page"):
        read(path, trusted=False)
