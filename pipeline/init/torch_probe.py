"""A look at a PyTorch model: a factory's module, a TorchScript file, an exported program."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.config.inputs import BATCH_SIZES
from crosscast.pipeline.errors import CrosscastError, StageError
from crosscast.pipeline.init import names
from crosscast.pipeline.init.facts import Facts, Input, Size
from crosscast.pipeline.init.limits import of_layers
from crosscast.pipeline.init.settle import bound, runs, settled
from crosscast.pipeline.init.torch_clues import (
    OPTIONAL,
    argument_sets,
    arguments_of,
    first_layers,
    settings_of,
)
from crosscast.pipeline.init.torch_guess import Clues, guesses, sizes_of, tried_sizes
from crosscast.pipeline.init.torch_watch import watched
from crosscast.pipeline.init.writer import template
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor
from crosscast.pipeline.sources import torch as source
from crosscast.pipeline.sources.torch_call import Binding
from crosscast.pipeline.sources.torch_call import bound as bound_to
from crosscast.pipeline.sources.torch_file import kind_of, load_script
from crosscast.pipeline.sources.torch_module import brief, flattened
from crosscast.pipeline.sources.torch_open import opened

LAYOUT: Layout = "nchw"
SECONDS = 120.0
RATE = re.compile(r"(?i)\b(sr|sample_?rate|rate|fs)\b")
EXAMPLE = {"batch": 2, "sequence": 16, "decoder_sequence": 12, "samples": 16000}
"""Sizes of a guess: one second of sound, lengths that differ."""
MOST = 1 << 22
"""Elements of a guessed input; what needs more is not found by guessing."""


def look(keys: Mapping[str, Any], options: Mapping[str, Any]) -> Facts:
    """What the model tells, with sizes that it was run with.

    keys: of the config's source. options: those keys as stages take them.
    """
    try:
        return _look(keys, options)
    except CrosscastError as error:
        parts = _parts(options)
        for name in parts:
            part = {"submodule": name}
            with contextlib.suppress(CrosscastError):
                found = _look({**keys, **part}, {**options, **part})
                note = f"Its part '{name}' is taken, since the whole cannot be: {error.message}"
                if others := [other for other in parts if other != name]:
                    note += f"; other parts, for `submodule`: {', '.join(others)}"
                return replace(found, notes=(*found.notes, note))
        raise


def _parts(options: Mapping[str, Any]) -> list[str]:
    """The parts of a TorchScript module, one of which may be what can be shipped."""
    if options.get("file") is None or kind_of(Path(options["file"])) != "torchscript":
        return []
    children = dict(load_script(Path(options["file"])).named_children())
    return sorted(children, key=lambda name: (-len(_stored(children[name])), len(name)))


def _look(keys: Mapping[str, Any], options: Mapping[str, Any]) -> Facts:
    model = opened(options, Signature(inputs=()))
    module = model.module
    clues = Clues(layers=first_layers(module), config=settings_of(module))
    stated, dims = _stated(options)
    freeze = {} if stated else _constants(module)
    settings = {"freeze": freeze} if freeze else {}
    options = {**options, **settings}
    if stated:
        bind = opened(options, Signature(inputs=_tensors(stated))).bind
        guess, counts = _tried(module, bind, stated, sizes=_small(dims))
    else:
        guess, counts = _guessed(module, options, clues)
    sizes = {**sizes_of(guess, clues), **dims}
    inputs, dims_found = settled(guess, sizes, runs(options, LAYOUT))
    weights = sum(one.numel() * one.element_size() for one in _stored(module))
    return Facts(
        source={**keys, **settings},
        inputs=inputs,
        dims=dims_found,
        operators=counts,
        weights=weights,
        limits=of_layers(counts, inputs, weights),
        notes=(
            f"A PyTorch model: {_described(module)}.",
            *(() if stated else tried_sizes(inputs, clues)),
        ),
    )


def _stored(module: Any) -> list[Any]:
    return [*module.parameters(), *module.buffers()]


def _tensors(inputs: Sequence[Input]) -> tuple[Tensor, ...]:
    return tuple(one.tensor(LAYOUT) for one in inputs)


def _stated(options: Mapping[str, Any]) -> tuple[tuple[Input, ...], dict[str, tuple[Size, ...]]]:
    """The inputs that a file states, and candidates for their dimensions; none where it does not.

    A traced file states the sizes that it was traced with: its first axes may vary all the same.
    """
    if options.get("file") is None:
        return (), {}
    try:
        found = source.signature(source=options, declared=Signature(inputs=()))
    except StageError:
        return (), {}
    sizes: dict[str, tuple[Size, ...]] = {}
    traced = kind_of(Path(options["file"])) == "torchscript"
    heads = {one.shape[0] if one.shape else 0 for one in found.inputs}
    head = heads.pop() if len(heads) == 1 else 0
    if traced and isinstance(head, int) and head:
        sizes["batch"] = (BATCH_SIZES, head)
    inputs = []
    for one in found.inputs:
        shape = ("batch", *one.shape[1:]) if "batch" in sizes and traced else _renamed(one)
        for mine, its in zip(shape, one.shape, strict=True):
            if isinstance(mine, str) and isinstance(its, str):
                sizes[mine] = _within(found.dims[its])
        bounds, why = names.range_of(one.name, one.dtype, shape)
        inputs.append(Input(name=one.name, shape=shape, dtype=one.dtype, range=bounds, why=why))
    return tuple(inputs), sizes


def _renamed(tensor: Tensor) -> tuple[int | str, ...]:
    """The tensor's shape; dimensions that have no name of their own are called by their place."""
    return tuple(
        size
        if isinstance(size, int)
        else names.dimension(size, axis=axis, shape=tensor.shape, dtype=tensor.dtype, layout=LAYOUT)
        for axis, size in enumerate(tensor.shape)
    )


def _within(bounds: tuple[int, int]) -> tuple[Size, ...]:
    """The sizes that a program states, fewer of them where they are many."""
    low, high = bounds
    least = min(high, max(low, BATCH_SIZES[1] if low <= 1 else low))
    return (low, min(high, max(64, low))), (low, least) if least > low else low, low


def _constants(module: Any) -> dict[str, Any]:
    """Arguments that are numbers in place of tensors, with what they are likely to be."""
    wanted = [one for one in arguments_of(module).required if one.kind in ("int", "bool")]
    return {one.name: False if one.kind == "bool" else _rate(one.name) for one in wanted}


def _rate(name: str) -> int:
    return 16000 if RATE.search(name) else 1


def _guessed(
    module: Any, options: Mapping[str, Any], clues: Clues
) -> tuple[tuple[Input, ...], dict[str, int]]:
    """The first guess that runs. Raises StageError with what to declare where none does."""
    arguments = arguments_of(module)
    frozen = options.get("freeze") or {}
    said: dict[str, None] = {}
    end = time.monotonic() + SECONDS
    for chosen in argument_sets(module, arguments, clues):
        for guess in guesses([one for one in chosen if one.name not in frozen], clues):
            try:
                bind = bound_to(module, [one.name for one in guess], frozen)
                _refuse_masked(module, bind, guess)
                return _tried(module, bind, guess)
            except CrosscastError as error:
                said[error.message] = None
            if time.monotonic() > end:
                break
    wanted = [one.name for one in arguments.required or arguments.every]
    raise _unknown(module, options, wanted, said)


def _small(candidates: Mapping[str, tuple[Size, ...]]) -> dict[str, int]:
    """A small size of each dimension, 2 where that is allowed."""
    wanted = {name: sizes[0] for name, sizes in candidates.items()}
    return {
        name: size if isinstance(size, int) else min(max(2, size[0]), size[1])
        for name, size in wanted.items()
    }


def _tried(
    module: Any, bind: Binding, inputs: tuple[Input, ...], sizes: Mapping[str, int] | None = None
) -> tuple[tuple[Input, ...], dict[str, int]]:
    """The inputs with the ranges that a run showed, and the operators.

    Raises StageError where the module refuses them.
    """
    import torch

    arrays = _example(inputs, sizes or EXAMPLE)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def run() -> Any:
        return bind(module, [tensor.clone() for tensor in tensors.values()])

    try:
        result, counts, rows = watched(module, run, tensors)
    except CrosscastError:
        raise
    except Exception as error:
        raise StageError(f"{type(error).__name__}: {brief(error)}") from error
    flattened(result)
    return tuple(_ranged(one, rows) for one in inputs), counts


def _refuse_masked(module: Any, bind: Binding, inputs: tuple[Input, ...]) -> None:
    """Raise StageError where rows that are masked as a whole, as a build tries them, give NaN."""
    import torch

    if not any(one.name in OPTIONAL for one in inputs):
        return
    arrays = _example(inputs, EXAMPLE)
    masked = (array * (name not in OPTIONAL) for name, array in arrays.items())
    try:
        with torch.no_grad():
            found = flattened(bind(module, [torch.from_numpy(array) for array in masked]))
    except CrosscastError:
        raise
    except Exception as error:
        raise StageError(f"{type(error).__name__}: {brief(error)}") from error
    if not all(bool(tensor.isfinite().all()) for _, tensor in found):
        raise StageError("a row that is masked as a whole gives values that are not finite")


def _ranged(one: Input, rows: Mapping[str, int]) -> Input:
    count = rows.get(one.name, 0)
    if count < 2:
        return one
    return replace(one, range=(0, count - 1), why=f"it indexes a table of {count} rows")


def _example(inputs: Sequence[Input], sizes: Mapping[str, int]) -> Arrays:
    """Small random inputs of those sizes; integers 0 and 1."""
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    shaped, _ = bound(inputs, sizes)
    for one in shaped:
        if np.prod([size if isinstance(size, int) else 2 for size in one.shape]) > MOST:
            raise StageError(f"input '{one.name}' would be too large to guess")
        shape = tuple(size if isinstance(size, int) else 2 for size in one.shape)
        arrays[one.name] = _drawn(one, shape, random).astype(one.dtype)
    return arrays


def _drawn(one: Input, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    if one.dtype.startswith("float"):
        return np.asarray(random.uniform(-1, 1, shape))
    if names.LENGTH.search(one.name):
        return np.full(shape, 8)
    return np.asarray(random.integers(0, 2, shape))  # these exist in any table


def _unknown(
    module: Any, options: Mapping[str, Any], wanted: Sequence[str], said: Mapping[str, None]
) -> StageError:
    tried = "; ".join(re.sub(r"\s+", " ", one)[:160] for one in list(said)[:2])
    key = f"torch: {options.get('factory') or options.get('file')}"
    return StageError(
        f"the inputs of {_described(module)} could not be found out: forward() takes "
        f"{', '.join(wanted) or 'nothing'}, and refused every guess ({tried})",
        fix="declare them in a config of your own, such as\n\n" + template("model", key, wanted),
    )


def _described(module: Any) -> str:
    return str(getattr(module, "original_name", type(module).__name__))
