"""What kind of model a path names: by its content first, by its suffix second. No framework."""

from __future__ import annotations

import mmap
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crosscast.pipeline.errors import ConfigError, StageError
from crosscast.pipeline.sources.impostors import refuse_impostors

Kind = Literal[
    "factory", "onnx", "tflite", "keras", "tensorflow", "program", "torchscript", "skops", "pickle"
]
"""factory: 'file.py:function'. program: a .pt2. pickle: joblib's or the standard library's."""

FACTORY = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)\Z")
PICKLES = (".pkl", ".pickle", ".joblib")
GIVE_FACTORY = (
    "give 'file.py:function', a function that returns the model, and name these weights in the "
    "config's `weights`"
)
COMPRESSED = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x04\x22\x4d\x18",
    b"ZF",
    b"x\x01",
    b"x\x9c",
    b"x\xda",
)
"""How joblib's compressed files begin: gzip, bzip2, xz, lz4, its own old format, zlib."""
PROGRAMS = ("models/model.json", "serialized_exported_program.json")
"""How the names of an exported program's graph end, in new files and old ones."""
LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9c"
"""What torch.save wrote before its zip format: a pickle of its magic number."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that the user named.

    path: absolute; of the Python file where it is a factory.
    function: of a factory.
    """

    kind: Kind
    path: Path
    function: str = ""


def recognised(name: str) -> Model:
    """The model that a path or 'file.py:function' names.

    Raises ConfigError where there is nothing, StageError where it is no model, or not a whole one.
    """
    factory = FACTORY.match(name)
    if factory:
        path = _existing(factory["file"])
        return Model(kind="factory", path=path, function=factory["function"])
    path = _existing(name)
    return Model(kind=_directory(path) if path.is_dir() else _file(path), path=path)


def _existing(name: str) -> Path:
    path = Path(name)
    try:
        if not path.exists():
            raise ConfigError(f"{name}: no such file or directory", fix="check the path")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name!r}: this cannot be a path: {error}") from None
    # Resolved but for its own name, which may be a link to a file without its suffix.
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def _directory(path: Path) -> Kind:
    if (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists():
        return "tensorflow"
    if path.suffix in (".mlpackage", ".mlmodelc"):
        raise _refusal(path, "is a Core ML model, which cannot be converted further", _ORIGINAL)
    if any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin")):
        raise _refusal(path, "holds a model's weights and settings, but not its code", GIVE_FACTORY)
    if any(path.glob("*.index")) and any(path.glob("*.data-*")):
        raise _refusal(path, "is a TensorFlow checkpoint: weights without a graph", _SAVED_MODEL)
    raise _refusal(path, "is a directory, and no SavedModel (no saved_model.pb)", "name a file")


_ORIGINAL = "give the model that it was made from"
_SAVED_MODEL = (
    "save the model with tf.saved_model.save() or model.export(), and give that directory"
)


def _file(path: Path) -> Kind:
    _refuse_text(path)
    refuse_impostors(path, what="model file", fix="give the model's own file")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5(path)
    if head[4:8] == b"TFL3":
        return "tflite"
    _refuse_weights(path, head)
    if head[:1] == b"\x80" or (head.startswith(COMPRESSED) and path.suffix in PICKLES):
        return "pickle"
    if path.suffix == ".onnx" or (head[0] == 0x08 and head[1] < 0x20 and path.suffix != ".pb"):
        return "onnx"
    if path.suffix == ".pb":
        raise _refusal(path, "looks like a frozen TensorFlow graph", _SAVED_MODEL)
    raise _refusal(
        path,
        "is no kind of model that is known here",
        "give an .onnx, .tflite, .keras, .h5, .pt2, TorchScript, .skops or .joblib file, "
        "a SavedModel directory, or 'file.py:function'",
    )


def _refuse_text(path: Path) -> None:
    if path.suffix == ".py":
        raise ConfigError(
            f"{path}: which of its functions returns the model is not said",
            fix=f"name it: '{path.name}:function'",
        )
    if path.suffix in (".yaml", ".yml"):
        raise ConfigError(
            f"{path}: looks like a config already", fix=f"`crosscast build {path.name}`"
        )


def _archive(path: Path) -> Kind:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inner = {name.partition("/")[2] for name in names}
    if {"config.json", "model.weights.h5"} <= set(names):
        return "keras"
    if "schema.json" in names:
        return "skops"
    if any(name.endswith(PROGRAMS) for name in names):
        return "program"
    if any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        raise _refusal(path, "holds weights (a PyTorch checkpoint), but no model", GIVE_FACTORY)
    if names and all(name.endswith(".npy") for name in names):
        raise _refusal(path, "is an .npz of arrays, not a model", "give the model's own file")
    what = "is a zip archive, and no model that is known here"
    raise _refusal(path, what, "unpack it, and give the model in it")


def _hdf5(path: Path) -> Kind:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        whole = data.find(b"model_config") >= 0
    if not whole:
        fix = "save the whole model with model.save(), or " + GIVE_FACTORY
        raise _refusal(path, "holds a Keras model's weights, but not its layers", fix)
    return "keras"


def _refuse_weights(path: Path, head: bytes) -> None:
    if head[4:8] == b"ORTM":
        raise _refusal(path, "is in ONNX Runtime's .ort format, made for running alone", _ORIGINAL)
    size = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and size < path.stat().st_size:
        raise _refusal(path, "holds weights (safetensors), but no model", GIVE_FACTORY)
    if head.startswith(b"GGUF"):
        raise _refusal(path, "is a GGUF file: weights for llama.cpp", _ORIGINAL)
    if head.startswith(LEGACY_TORCH):
        raise _refusal(
            path, "holds weights (an old PyTorch checkpoint), but no model", GIVE_FACTORY
        )


def _refusal(path: Path, what: str, fix: str) -> StageError:
    return StageError(f"{path} {what}", fix=fix)
