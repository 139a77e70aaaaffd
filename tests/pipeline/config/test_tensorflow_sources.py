"""Keras and TensorFlow sources in a config, and which way a target goes from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ConfigError

TEXT = "model: m\nversion: 1.0.0\nsource: {source}\ntargets:\n  tflite-fp32: {target}\n"


def loaded(folder: Path, source: str, target: str = "{}") -> Config:
    (folder / "net.py").write_text("def build(): ...\n")
    (folder / "net.keras").write_bytes(b"PK")
    (folder / "saved").mkdir(exist_ok=True)
    (folder / "saved/saved_model.pb").write_bytes(b"")
    (folder / "empty").mkdir(exist_ok=True)
    path = folder / "c.yaml"
    path.write_text(TEXT.format(source=source, target=target))
    return load(path)


def error(folder: Path, source: str, target: str = "{}") -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, source, target)
    return caught.value.message.replace(f"{folder}/", "")


def test_a_keras_file_and_a_factory(tmp_path: Path) -> None:
    assert loaded(tmp_path, "{keras: net.keras, trusted: true}").source.to_source() == {
        "kind": "keras",
        "factory": None,
        "model": str(tmp_path / "net.keras"),
        "trusted": True,
    }
    made = loaded(tmp_path, "{keras: net.py:build}").source.to_source()
    assert (made["factory"], made["model"]) == (f"{tmp_path / 'net.py'}:build", None)


def test_a_saved_model_and_its_signature(tmp_path: Path) -> None:
    config = loaded(tmp_path, "{tensorflow: saved, signature: half}")
    assert config.source.to_source() == {
        "kind": "tensorflow",
        "factory": None,
        "model": str(tmp_path / "saved"),
        "signature": "half",
    }
    assert config.source.layout == "nhwc"


def test_what_is_no_saved_model_is_told_with_its_place(tmp_path: Path) -> None:
    assert "c.yaml:3:22: source.tensorflow: no SavedModel" in error(tmp_path, "{tensorflow: empty}")
    assert "a function has no signatures" in error(
        tmp_path, "{tensorflow: net.py:build, signature: half}"
    )


def test_via_says_what_a_target_starts_from(tmp_path: Path) -> None:
    config = loaded(tmp_path, "{keras: net.keras}", "{via: onnx}")
    assert config.targets["tflite-fp32"].via == "onnx"
    assert "via" not in config.targets["tflite-fp32"].options()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "{via: coreml}",
            "c.yaml:5:22: targets.tflite-fp32.via: 'tflite-fp32' cannot start from 'coreml'; it "
            "starts from 'tflite', 'saved_model' or 'onnx'",
        ),
        (
            "{via: tflite}",
            "c.yaml:5:22: targets.tflite-fp32.via: a keras source cannot give 'tflite'; it gives "
            "'saved_model' or 'onnx'",
        ),
        ("{via: jpeg}", "targets.tflite-fp32.via: expected"),
        ("{via: onnx, from: onnx}", "targets.tflite-fp32.via: contradicts 'from'"),
    ],
)
def test_a_way_that_is_none_is_told_with_its_place(target: str, said: str, tmp_path: Path) -> None:
    assert said in error(tmp_path, "{keras: net.keras}", target)
