"""Reading Keras' model files: by Keras 3, or by tf_keras where only Keras 2 can."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.impostors import refuse_impostors

READER = "reader"
"""The key of notes that says what read the file, where it was not Keras 3."""

_FACTORY = "name a 'file.py:function' in its place, that "
_SHOWN = 300


def read(path: Path, *, trusted: bool) -> tuple[Any, dict[str, Any]]:
    """The model of a .keras, .h5 or .hdf5 file, and notes on how it was read.

    Raises StageError where it holds Python bytecode that the config does not trust, where it holds
    no model, and where neither Keras can read it.
    """
    refuse_impostors(path, what="Keras file", fix="give the .keras or .h5 file itself")
    config = _config(path)
    if not trusted:
        _refuse_bytecode(config, path)
    import keras

    if trusted:
        keras.config.enable_unsafe_deserialization()
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trusted), {}
    except Exception as error:  # noqa: BLE001 - whatever it cannot read, Keras 2 may
        reason = _brief(error)
    return _by_keras_2(path, reason, trusted=trusted), {READER: "tf_keras", "reason": reason}


def _by_keras_2(path: Path, reason: str, *, trusted: bool) -> Any:
    import tf_keras

    if trusted:
        tf_keras.config.enable_unsafe_deserialization()
    try:
        return tf_keras.models.load_model(path, compile=False)
    except Exception as error:
        raise StageError(
            f"Keras file {path} can be read neither by Keras 3 ({reason}) nor by Keras 2 "
            f"({_brief(error)})",
            fix="if it needs classes or functions of your own, "
            f"{_FACTORY}defines or imports them and returns keras.saving.load_model(...)",
        ) from error


def _config(path: Path) -> Any:
    """The file's description of its model, without loading it."""
    return _zipped(path) if zipfile.is_zipfile(path) else _hdf5(path)


def _zipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if "config.json" in names:
            return json.loads(archive.read("config.json"))
    raise StageError(
        f"Keras file {path} is a zip archive without config.json: it holds {', '.join(names[:5])}",
        fix="give the .keras file that model.save(path) writes",
    )


def _hdf5(path: Path) -> Any:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            config, groups = file.attrs.get("model_config"), list(file)
    except OSError as error:
        raise StageError(
            f"Keras file {path} is neither a .keras archive nor an HDF5 file, or a truncated one "
            f"({_brief(error)})",
            fix="fetch or save it again, and compare its size with the original's",
        ) from error
    if config is None:
        raise StageError(
            f"Keras file {path} holds weights only, no model (its groups: {', '.join(groups[:5])})",
            fix=f"{_FACTORY}builds the model and calls load_weights on this file",
        )
    return json.loads(config)


def _refuse_bytecode(config: Any, path: Path) -> None:
    names = [str(layer) for layer in _lambdas(config, "")]
    if names:
        raise StageError(
            f"Keras file {path} holds a Python lambda as bytecode (layer "
            f"{', '.join(map(repr, dict.fromkeys(names)))}), which is not run because it could do "
            "anything",
            fix="if you trust where the file comes from, set `trusted: true` under `source`; "
            "or replace the Lambda layer by a layer class",
        )


def _lambdas(config: Any, layer: str) -> Iterator[str]:
    """The layers whose functions are bytecode."""
    if isinstance(config, Mapping):
        if config.get("class_name") == "__lambda__" or config.get("function_type") == "lambda":
            yield layer
        if "class_name" in config and isinstance(config.get("config"), Mapping):
            layer = config["config"].get("name", layer)
        for entry in config.values():
            yield from _lambdas(entry, layer)
    elif isinstance(config, list):
        for entry in config:
            yield from _lambdas(entry, layer)


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"
