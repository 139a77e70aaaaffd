"""What a path names, told by its content."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from crosscast.pipeline.errors import ConfigError, CrosscastError, StageError
from crosscast.pipeline.init.kinds import recognised

PROTOBUF = b"\x08\x08\x12\x07pytorch" + b"\xff" * 40
PICKLE = b"\x80\x04\x95" + b"\x00" * 40


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, "x")
    return path


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("m.onnx", PROTOBUF, "onnx"),
        ("m.bin", PROTOBUF, "onnx"),
        ("m.onnx", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40, "tflite"),
        ("m.dat", b"\x89HDF\r\n\x1a\n" + b"\xff" * 9 + b"model_config", "keras"),
        ("m.pt", PICKLE, "pickle"),
        ("m.joblib", b"x\x9c" + b"\xff" * 40, "pickle"),
    ],
)
def test_a_file_is_told_by_its_content(name: str, data: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert recognised(str(tmp_path / name)).kind == kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("config.json", "metadata.json", "model.weights.h5"), "keras"),
        (("schema.json", "a.npy"), "skops"),
        (("m/constants.pkl", "m/code/__torch__.py", "m/data.pkl"), "torchscript"),
        (("m/models/model.json", "m/archive_format"), "program"),
        (("serialized_exported_program.json", "version"), "program"),
    ],
)
def test_an_archive_is_told_by_its_entries(
    names: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    assert recognised(str(archive(tmp_path / "m", *names))).kind == kind


def test_directories_and_functions(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "net.py").touch()
    assert recognised(str(tmp_path)).kind == "tensorflow"
    model = recognised(f"{tmp_path}/net.py:build")
    assert (model.kind, model.path, model.function) == ("factory", tmp_path / "net.py", "build")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("m.onnx", b"", "is empty"),
        ("m.onnx", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("m.onnx", b"<!DOCTYPE html><html></html>", "web page"),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + b"\xff" * 40, "weights, but not its layers"),
        ("m.ort", b"\x1c\x00\x00\x00ORTM" + b"\xff" * 40, "ONNX Runtime's .ort"),
        ("m.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b"\xff" * 40, "safetensors"),
        ("m.gguf", b"GGUF" + b"\xff" * 40, "GGUF"),
        ("m.pt", b"\x80\x02\x8a\x0al\xfc\x9cF" + b"\xff" * 40, "old PyTorch checkpoint"),
        ("m.pb", PROTOBUF, "frozen TensorFlow graph"),
        ("m.bin", b"\x99" * 40, "no kind of model"),
    ],
)
def test_what_is_no_model_is_named(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StageError, match=said) as caught:
        recognised(str(tmp_path / name))
    assert caught.value.fix


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("archive/data.pkl", "archive/data/0"), "PyTorch checkpoint"),
        (("x.npy", "y.npy"), ".npz of arrays"),
        (("readme.txt",), "no model that is known"),
    ],
)
def test_archives_without_a_model(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=said):
        recognised(str(archive(tmp_path / "m.pt", *names)))


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("model.safetensors", "but not its code"),
        ("ckpt.index", "checkpoint"),
        ("x", "no SavedModel"),
    ],
)
def test_directories_without_a_model(inside: str, said: str, tmp_path: Path) -> None:
    (tmp_path / inside).touch()
    (tmp_path / "ckpt.data-00000-of-00001").touch()
    with pytest.raises(StageError, match=said):
        recognised(str(tmp_path))


@pytest.mark.parametrize("name", ["none.onnx", "net.py", "m.yaml", "none.py:build", "\0"])
def test_what_is_not_there_or_not_enough_is_a_wrong_command(name: str, tmp_path: Path) -> None:
    for there in ("net.py", "m.yaml"):
        (tmp_path / there).write_text("x = 1\n")
    with pytest.raises(CrosscastError) as caught:
        recognised(str(tmp_path / name))
    assert isinstance(caught.value, ConfigError)
