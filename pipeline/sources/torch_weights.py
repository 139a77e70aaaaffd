"""Reading a weights file into a torch module, saying clearly what is wrong with a bad one."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.impostors import refuse_impostors

_SAVE = "save them with torch.save(model.state_dict(), path) or as .safetensors"
_SHOWN = 5


def load_weights(module: Any, path: Path) -> None:
    """Load the state_dict in `path` into `module`.

    Raises StageError where the file is not one, does not fit, or holds non-finite values.
    """
    state = read_state_dict(path)
    _refuse_non_finite(state, path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(state, module, path, error) from error


def read_state_dict(path: Path) -> dict[str, Any]:
    """The tensors by name, on the CPU. Never unpickles anything but tensors."""
    refuse_impostors(path, what="weights file", fix=_SAVE)
    value = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _state_dict(value, path)


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
    import torch

    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise _unsafe(path, str(error)) from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise StageError(
                f"weights file {path} is a TorchScript archive, not a state_dict",
                fix="save torch.jit.load(path).state_dict() with torch.save",
            ) from error
        raise _not_weights(path, error) from error


def _unsafe(path: Path, text: str) -> StageError:
    """A pickle holds a class (a whole model, an optimiser), or the file is no pickle at all."""
    found = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", text)
    if "Weights only load failed" not in text or found is None:
        return _not_weights(path, text.strip().splitlines()[-1] if text.strip() else "no pickle")
    name = found.group(1) or found.group(2)
    return StageError(
        f"weights file {path} holds more than tensors: a pickled {name}, "
        "which is not loaded because unpickling it could run code",
        fix=f"weights must be a state_dict: {_SAVE}",
    )


def _not_weights(path: Path, why: object) -> StageError:
    reason = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else str(why)
    first = reason.strip().splitlines()[0]
    return StageError(f"weights file {path} cannot be read as torch weights ({first})", fix=_SAVE)


def _state_dict(value: Any, path: Path) -> dict[str, Any]:
    import torch

    if not isinstance(value, Mapping):
        raise StageError(
            f"weights file {path} holds a {type(value).__name__}, not a state_dict", fix=_SAVE
        )
    # _extra_state may be anything: only entries that no state_dict has make it something else.
    strange = [
        str(key)
        for key, entry in value.items()
        if not isinstance(key, str)
        or not (isinstance(entry, torch.Tensor) or key.endswith("_extra_state"))
    ]
    if not strange:
        return dict(value)
    inner = [str(key) for key, entry in value.items() if isinstance(entry, Mapping) and entry]
    hint = f"take the one under '{inner[0]}' out of it and save that alone" if inner else _SAVE
    raise StageError(
        f"weights file {path} is not a state_dict (tensors by name): it holds {_list(strange)}",
        fix=hint,
    )


def _refuse_non_finite(state: Mapping[str, Any], path: Path) -> None:
    import torch

    bad = [
        name
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
        and (tensor.is_floating_point() or tensor.is_complex())
        and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise StageError(
            f"weights file {path} holds NaN or infinite values in {_list(bad)}",
            fix="these weights cannot be proven or quantized: take a sound checkpoint",
        )


def _misfit(state: Mapping[str, Any], module: Any, path: Path, error: Exception) -> StageError:
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {_shape(state[name])} in the file, {_shape(wanted[name])} in the model"
        for name in wanted
        if name in state and _shape(wanted[name]) != _shape(state[name])
    ]
    parts = [
        f"{len(names)} {what}: {_list(names)}"
        for what, names in (
            ("missing from the file", missing),
            ("in the file but not in the model", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    fix = _prefix_hint(wanted, state) or "give the weights that belong to what the factory builds"
    detail = "\n  ".join(parts) or str(error)
    return StageError(
        f"weights file {path} does not fit the model ({type(module).__name__}):\n  {detail}",
        fix=fix,
    )


def _prefix_hint(wanted: Iterable[str], state: Iterable[str]) -> str:
    """What to do where all keys of one side are those of the other behind a common prefix."""
    wanted, state = set(wanted), set(state)
    for names, others, side in ((state, wanted, "file"), (wanted, state, "model")):
        prefix = _common_prefix(names)
        if prefix and {name.removeprefix(prefix) for name in names} & others:
            act = "strip it from them" if side == "file" else "add it to the file's"
            return f"every key of the {side} begins with '{prefix}': {act} and save again"
    return ""


def _common_prefix(names: Iterable[str]) -> str:
    """The first dotted component, with its dot, where all names share it; else ''."""
    first = {name.partition(".")[0] for name in names if "." in name}
    whole = all("." in name for name in names)
    return f"{first.pop()}." if whole and len(first) == 1 else ""


def _shape(tensor: Any) -> list[int] | None:
    return list(tensor.shape) if hasattr(tensor, "shape") else None


def _list(names: list[str]) -> str:
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
