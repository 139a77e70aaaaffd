"""Which framework a function's model belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.init import factory


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch\n", "torch"),
        ("from torch import nn\nimport numpy\n", "torch"),
        ("def build():\n    import timm\n", "torch"),
        ("from sklearn.svm import SVC\n", "sklearn"),
        ("import keras\n", ""),
        ("import torch, sklearn\n", ""),
        ("import torch, transformers\n", ""),
        ("import mine\n", ""),
        ("def (:\n", ""),
    ],
)
def test_imports(code: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(code)
    assert factory.by_imports(path) == expected


@pytest.mark.parametrize("made", ["None", "dict(a=1)", "object"])
def test_what_is_no_model(made: str, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(f"def build(): return {made}\n")
    with pytest.raises(StageError, match="no model of PyTorch, Keras, TensorFlow or"):
        factory.run(inputs={}, options={"factory": f"{path}:build"}, out=tmp_path)


def test_a_class_is_told_by_where_it_is_defined(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "Module = type('Module', (), {'__module__': 'torch.nn.modules.module'})\n"
        "class Net(Module): ...\n"
        "def build(): return Net()\n"
    )
    factory.run(inputs={}, options={"factory": f"{path}:build"}, out=tmp_path)
    assert json.loads((tmp_path / factory.KIND).read_text()) == "torch"
