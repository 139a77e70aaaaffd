"""Reading weights files: safetensors and torch's own, whole or in shards. Tensors only."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.impostors import refuse_impostors

SAVE = "save them with torch.save(model.state_dict(), path) or as .safetensors"
INDEX = ".index.json"

_shards: dict[str, None] = {}
"""Files that an index named and that were read in this process, in order."""


def shards_read() -> tuple[str, ...]:
    """The files that an index of weights named, absolute, as far as they were read."""
    return tuple(_shards)


def read_checkpoint(path: Path) -> Any:
    """What the file holds, its tensors on the CPU. Never unpickles code."""
    if path.name.endswith(INDEX):
        return _read_index(path)
    refuse_impostors(path, what="weights file", fix=SAVE)
    return _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)


def _is_safetensors(path: Path) -> bool:
    """By its header: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and head[:1] != b"\x80")


def _read_index(path: Path) -> dict[str, Any]:
    """The tensors of all shards of a `*.safetensors.index.json` or `*.bin.index.json`."""
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        wanted = {str(key): str(file) for key, file in named.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(
            f"weights file {path} is no index of weights: it has no 'weight_map'",
            fix="give the index that lies beside the shards, or the weights file itself",
        ) from error
    found: dict[str, Any] = {}
    for name in dict.fromkeys(wanted.values()):
        shard = _beside(path, name)
        content = read_checkpoint(shard)
        _shards[str(shard)] = None
        missing = [key for key, file in wanted.items() if file == name and key not in content]
        if missing:
            raise StageError(
                f"weights file {shard} has no tensor '{missing[0]}', which {path.name} puts there",
                fix="fetch the shards and their index again: they are not of one model",
            )
        found |= {key: content[key] for key, file in wanted.items() if file == name}
    return found


def _beside(path: Path, name: str) -> Path:
    if PurePosixPath(name).name != name or name in ("", "..") or name.endswith(INDEX):
        raise StageError(
            f"weights file {path} names the shard '{name}', which is no file beside it",
            fix="keep the shards in the directory of their index",
        )
    return path.parent / name


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise StageError(
            f"weights file {path} is not a safetensors file, or a truncated one: {error}",
            fix="fetch or save it again; a torch file must not be named .safetensors",
        ) from error


def _read_torch(path: Path) -> Any:
    """The content of a file of torch.save: what is no tensor and no container is left blank."""
    import torch

    try:
        with torch.serialization.safe_globals(_blanks(path)):
            found = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise _unsafe(path, str(error)) from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise StageError(
                f"weights file {path} is a TorchScript archive, not a state_dict",
                fix="give it as the model itself (`torch: FILE`), or save "
                "torch.jit.load(path).state_dict() with torch.save",
            ) from error
        raise not_weights(path, error) from error
    if isinstance(found, Blank):
        raise _refused(path, type(found).__name__)
    return found


class Blank:
    """Stands where a file has an object of a class that is not loaded: arguments of the training
    script, a scheduler, a numpy scalar. It takes what the file says of the object, and forgets it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _BlankDict:
    """Stands for a dict of a class that is not loaded: a plain one."""

    def __new__(cls, *args: Any) -> Any:  # noqa: ARG004 - a default factory
        return OrderedDict()


def _blanks(path: Path) -> list[tuple[type, str]]:
    """A blank for each class or function that the file names and torch does not trust.

    So tensors are read from any training checkpoint, and nothing of the file's choice is called.
    """
    import torch

    if not zipfile.is_zipfile(path):
        return []
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - what is wrong with the file, reading it tells
        return []
    bases = {name: _BlankDict if name.lower().endswith("dict") else Blank for name in names}
    return [(type(name, (base,), {}), name) for name, base in sorted(bases.items())]


def _unsafe(path: Path, text: str) -> StageError:
    """A pickle holds a class (a whole model, an optimiser), or the file is no pickle at all."""
    found = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", text)
    if "Weights only load failed" not in text or found is None:
        return not_weights(path, text.strip().splitlines()[-1] if text.strip() else "no pickle")
    return _refused(path, found.group(1) or found.group(2))


def _refused(path: Path, name: str) -> StageError:
    return StageError(
        f"weights file {path} holds more than tensors: a pickled {name}, "
        "which is not loaded because unpickling it could run code",
        fix=f"weights must be a state_dict: {SAVE}",
    )


def not_weights(path: Path, why: object) -> StageError:
    """That the file cannot be read, and why."""
    reason = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else str(why)
    first = reason.strip().splitlines()[0]
    return StageError(f"weights file {path} cannot be read as torch weights ({first})", fix=SAVE)
