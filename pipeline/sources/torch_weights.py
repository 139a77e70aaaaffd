"""Weights loaded into a torch module, saying clearly what is wrong with those that do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.sources.torch_checkpoint import SAVE, read_checkpoint, shards_read

__all__ = ["Weights", "load_weights", "read_state_dict", "shards_read"]

_SHOWN = 5
_DEPTH = 3  # of mappings in which a checkpoint's state_dict is looked for


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Which weights: those at the dotted `key` of a checkpoint, whose names begin with `prefix`.

    The prefix is taken off; tensors without it are left out.
    """

    path: Path
    key: str = ""
    prefix: str = ""


def load_weights(module: Any, weights: Weights) -> None:
    """Load the state_dict into `module`. Tied weights may be there once for all that share them.

    Raises StageError where the file is none, does not fit, or holds non-finite values.
    """
    state = read_state_dict(weights)
    _refuse_non_finite(state, weights.path)
    state |= _tied(module, state)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(state, module, weights, error) from error


def read_state_dict(weights: Weights) -> dict[str, Any]:
    """The tensors by name, on the CPU."""
    found = read_checkpoint(weights.path)
    if weights.key:
        found = _at(found, weights)
    state = _state_dict(found, weights)
    if not weights.prefix:
        return state
    length = len(weights.prefix)
    chosen = {
        name[length:]: value for name, value in state.items() if name.startswith(weights.prefix)
    }
    if not chosen:
        raise StageError(
            f"weights file {weights.path} has no key that begins with '{weights.prefix}'; "
            f"it has {_list(list(state))}",
            fix="set `weights_prefix` to what the keys begin with, or leave it out",
        )
    return chosen


def _at(value: Any, weights: Weights) -> Any:
    """What lies at the dotted key; a key of its own may have dots, too."""
    if not isinstance(value, Mapping):
        raise _no_state_dict(value, weights)
    rest = weights.key
    while rest:
        names = [str(key) for key in value] if isinstance(value, Mapping) else []
        taken = max((key for key in names if f"{rest}.".startswith(f"{key}.")), key=len, default="")
        if not taken:
            inner = [path for path, _ in _inside(value)] if isinstance(value, Mapping) else []
            raise StageError(
                f"weights file {weights.path} has nothing at '{weights.key}': "
                f"there is no '{rest.partition('.')[0]}', but {_list(names) or 'no mapping'}",
                fix=f"state_dicts in it: {_list(inner)}" if inner else "leave `weights_key` out",
            )
        value, rest = value[taken], rest[len(taken) + 1 :]
    return value


def _state_dict(value: Any, weights: Weights) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _no_state_dict(value, weights)
    strange = _strange(value)
    if not strange:
        return dict(value)
    inner = [path for path, _ in _inside(value)]
    keys = [f"{weights.key}.{path}" if weights.key else path for path in inner]
    hint = SAVE
    if len(keys) == 1:
        hint = f"set `weights_key: {keys[0]}`"
    elif keys:
        hint = f"choose one of its state_dicts by `weights_key`: {_list(keys)}"
    raise StageError(
        f"weights file {weights.path} is not a state_dict (tensors by name): "
        f"it holds {_list(strange)}",
        fix=hint,
    )


def _no_state_dict(value: Any, weights: Weights) -> StageError:
    there = f" at '{weights.key}'" if weights.key else ""
    return StageError(
        f"weights file {weights.path} holds a {type(value).__name__}{there}, not a state_dict",
        fix=SAVE,
    )


def _strange(value: Mapping[Any, Any]) -> list[str]:
    """The entries that no state_dict has; `_extra_state` may be anything."""
    import torch

    return [
        str(key)
        for key, entry in value.items()
        if not isinstance(key, str)
        or not (isinstance(entry, torch.Tensor) or key.endswith("_extra_state"))
    ]


def _inside(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The state_dicts in a checkpoint, by dotted path."""
    if not isinstance(value, Mapping) or depth > _DEPTH:
        return
    for key, entry in value.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(entry, Mapping) and entry and not _strange(entry):
            yield here, entry
        else:
            yield from _inside(entry, here, depth + 1)


def _tied(module: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the file leaves out because the module has it in common with what the file holds."""
    own = module.state_dict(keep_vars=True)
    groups: dict[int, list[str]] = {}
    for name, tensor in own.items():
        groups.setdefault(id(tensor), []).append(name)
    return {
        name: state[there]
        for names in groups.values()
        for there in [next((name for name in names if name in state), "")]
        if there
        for name in names
        if name not in state
    }


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


def _misfit(
    state: Mapping[str, Any], module: Any, weights: Weights, error: Exception
) -> StageError:
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
    fix = _prefix_hint(wanted, state, weights.prefix)
    detail = "\n  ".join(parts) or str(error)
    return StageError(
        f"weights file {weights.path} does not fit the model ({type(module).__name__}):\n"
        f"  {detail}",
        fix=fix or "give the weights that belong to what the factory builds",
    )


def _prefix_hint(wanted: Iterable[str], state: Iterable[str], taken: str) -> str:
    """What to do where the keys of one side are those of the other behind a prefix."""
    wanted, state = set(wanted), set(state)
    prefix = _prefix(state, wanted)
    if prefix:
        return f"set `weights_prefix: {taken}{prefix}`, with which its keys begin"
    prefix = _prefix(wanted, state)
    if prefix:
        return (
            f"every key of the model begins with '{prefix}': return what it holds there from the "
            "factory, or add it to the file's keys and save again"
        )
    return ""


def _prefix(names: set[str], others: set[str]) -> str:
    """The dotted beginning of some names behind which all of `others` stand, or ''."""
    beginnings = {name[: -len(other)] for name in names for other in _ends(name) if other in others}
    whole = [
        start for start in beginnings if start and all(start + other in names for other in others)
    ]
    return min(whole, key=len, default="")


def _ends(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[index:]) for index in range(1, len(parts))]


def _shape(tensor: Any) -> list[int] | None:
    return list(tensor.shape) if hasattr(tensor, "shape") else None


def _list(names: list[str]) -> str:
    more = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
