"""What forward() may take: guesses from names, annotations, first layers and settings. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, TypeAlias

from crosscast.pipeline.init import names
from crosscast.pipeline.init.facts import Input, Size

Option: TypeAlias = "tuple[Input, ...]"
"""The inputs that one argument may stand for: several where it is a tuple of tensors."""

SIDES = (
    224, 64, 32, 28, 256, 128, 96, 48, 84, 112, 384, 299, 227, 160, 192, 16, 8, 20, 24, 36, 40, 100,
    200, 240, 300, 320, 448, 512, 640,
)  # fmt: skip
"""Of images: those of known data sets and nets, the usual first."""
GUESSES = 400

TEXT = ("input_ids", "ids", "tokens", "token_ids", "text", "src", "tgt", "idx", "indices")
CHUNKS = (512, 256, 480, 160)
"""Samples of sound that are usually taken at a time: 32, 16, 30 and 10 ms at 16 kHz."""
FEW = 4
"""Sizes up to this are channels or layers, which nobody chooses."""
MELS = (40, 64, 80, 100, 128)
"""Numbers of bands that spectrograms of sound usually have."""


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of forward(). kind: its annotation as text ("Tensor", "int"), or empty."""

    name: str
    kind: str = ""


@dataclass(frozen=True)
class Layer:
    """A layer by its class' name, and what it takes: channels, features, rows of its table.

    state: of a recurrent layer: (layers * directions, hidden size). batch_first: its batch's axis.
    """

    kind: str
    takes: int
    state: tuple[int, int] = (0, 0)
    batch_first: bool = True


@dataclass(frozen=True, kw_only=True)
class Clues:
    """What a module shows beside forward(): its first layers in order, its settings."""

    layers: tuple[Layer, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def number(self, *keys: str) -> int:
        """The first of these settings that is a positive number; 0 where none is."""
        values = (self.config.get(key) for key in keys)
        return next((one for one in values if isinstance(one, int) and one > 0), 0)


def guesses(arguments: Sequence[Argument], clues: Clues) -> Iterator[tuple[Input, ...]]:
    """The inputs that forward() may take, the likeliest first."""
    options = [options_of(argument, clues) for argument in arguments]
    ranks = itertools.product(*(range(len(one)) for one in options))
    ordered = sorted(itertools.islice(ranks, 50_000), key=sum)
    for picks in ordered[:GUESSES]:
        chosen = (one[pick] for one, pick in zip(options, picks, strict=True))
        yield tuple(itertools.chain.from_iterable(chosen))


def options_of(argument: Argument, clues: Clues) -> list[Option]:
    """What an argument may be, by its name and else by the first layers."""
    by_name = list(_by_name(argument.name, argument.kind, clues))
    by_layer = list(_by_layers(argument.name, clues))
    if any(layer.kind == "Conv1d" for layer in clues.layers):
        by_layer += [(_float(argument.name, "batch", size),) for size in CHUNKS]
    found = [*by_name, *by_layer] or [(_float(argument.name, "batch", 16),)]
    return list(dict.fromkeys(found))


def _by_name(name: str, kind: str, clues: Clues) -> Iterator[Option]:
    lower = name.lower()
    time = "decoder_sequence" if lower.startswith("decoder") else "sequence"
    if kind == "bool":
        yield (Input(name=name, shape=(), dtype="bool"),)
    if names.MASK.search(lower):
        yield (_ids(name, "batch", time, why="a mask"),)
        yield (Input(name=name, shape=("batch", time), dtype="bool"),)
        yield (_ids(name, "batch", why="a mask"),)
    elif lower.removeprefix("decoder_") in TEXT or lower.endswith("ids"):
        yield (_ids(name, "batch", time),)
    elif names.LENGTH.search(lower):
        yield (_ranged(name, ("batch",), (1, 16), "assumed: lengths"),)
    elif names.TIMESTEP.match(lower):
        yield (_ranged(name, ("batch",), (0, 999), "assumed: a step of diffusion"),)
        yield (_float(name, "batch"),)
    elif names.STATE.search(lower):
        yield from _states(name, kind, clues)
    elif names.AUDIO.search(lower) or lower == "input_values":
        if clues.number("num_mel_bins"):
            yield from _spectrograms(name, clues)
        yield (_float(name, "batch", "samples"),)
        yield (_float(name, "batch", 1, "samples"),)
    elif names.IMAGE.search(lower):
        yield from _images(
            name, clues.number("num_channels", "in_channels", "in_chans") or 3, clues
        )
    elif lower == "input_features" or "mel" in lower or "spec" in lower:
        yield from _spectrograms(name, clues)


def _by_layers(name: str, clues: Clues) -> Iterator[Option]:
    for layer in clues.layers:
        yield from _by_layer(name, layer, clues)
    # Layers come as they were made, which the one that reads the image need not be first in.
    if any(layer.kind == "Conv2d" for layer in clues.layers):
        for channels in (3, 1):
            yield from _images(name, channels, clues)


def _by_layer(name: str, layer: Layer, clues: Clues) -> Iterator[Option]:
    kind, takes = layer.kind, layer.takes
    if kind in ("Conv2d", "BatchNorm2d", "ConvTranspose2d"):
        yield from _images(name, takes, clues)
    elif kind in ("Conv1d", "ConvTranspose1d"):
        yield from _signals(name, takes)
    elif kind in ("Conv3d", "BatchNorm3d"):
        for side in ((16, 112), (8, 64), (32, 32), (16, 224)):
            yield (_float(name, "batch", takes, side[0], side[1], side[1]),)
    elif kind in ("Embedding", "EmbeddingBag"):
        yield (_ids(name, "batch", "sequence"),)
        yield (_ids(name, "batch"),)
    elif layer.state[1] or kind in ("TransformerEncoderLayer", "MultiheadAttention", "LayerNorm"):
        yield (_sequence(name, takes, layer.batch_first),)
        yield (_float(name, "batch", takes),)
    elif kind in ("Linear", "BatchNorm1d", "Bilinear"):
        yield (_float(name, "batch", takes),)
        yield (_float(name, "batch", "sequence", takes),)
        yield from _flattened(name, takes)


def _images(name: str, channels: int, clues: Clues) -> Iterator[Option]:
    said = clues.config.get("image_size")
    sides = [(said, said)] if isinstance(said, int) else []
    if isinstance(said, list | tuple) and len(said) == 2:
        sides = [(int(said[0]), int(said[1]))]
    for height, width in [*sides, *((side, side) for side in SIDES)]:
        yield (_float(name, "batch", channels, height, width),)


def _signals(name: str, channels: int) -> Iterator[Option]:
    if channels == 1:
        yield (_float(name, "batch", 1, "samples"),)
        yield (_float(name, "batch", "samples"),)
    yield (_float(name, "batch", channels, "sequence"),)
    yield (_float(name, "batch", "sequence", channels),)


def _spectrograms(name: str, clues: Clues) -> Iterator[Option]:
    bands = clues.number("num_mel_bins", "n_mels", "feature_size") or 80
    frames = clues.number("max_length") if "num_mel_bins" in clues.config else 0
    if positions := clues.number("max_source_positions"):
        yield (_float(name, "batch", bands, 2 * positions),)
    if frames:
        yield (_float(name, "batch", frames, bands),)
    yield (_float(name, "batch", bands, "sequence"),)
    yield (_float(name, "batch", "sequence", bands),)
    yield (_float(name, "batch", 1, bands, 96),)


def _states(name: str, kind: str, clues: Clues) -> Iterator[Option]:
    for layer in clues.layers:
        if not layer.state[1]:
            continue
        depth, width = layer.state
        shapes: list[tuple[int | str, ...]] = [(depth, "batch", width), ("batch", width)]
        for shape in shapes:
            single: Option = (_state(name, shape),)
            double: Option = (_state(f"{name}.0", shape), _state(f"{name}.1", shape))
            pair = "uple" in kind or (layer.kind == "LSTM" and not names.ONE_STATE.match(name))
            yield from (double, single) if pair else (single, double)
        if layer.kind in ("LSTM", "LSTMCell"):  # what is kept and what is given out, as one tensor
            yield (_state(name, (2 * depth, "batch", width)),)


def _flattened(name: str, features: int) -> Iterator[Option]:
    """Images whose pixels are as many as a first Linear layer takes."""
    for channels in (1, 3):
        side = isqrt(features // channels)
        if side > 4 and channels * side * side == features:
            yield (_float(name, "batch", channels, side, side),)


def _sequence(name: str, features: int, batch_first: bool) -> Input:
    order = ("batch", "sequence") if batch_first else ("sequence", "batch")
    return _float(name, *order, features)


def _float(name: str, *shape: int | str) -> Input:
    bounds, why = names.range_of(name, "float32", shape)
    return Input(name=name, shape=shape, dtype="float32", range=bounds, why=why)


def _state(name: str, shape: tuple[int | str, ...]) -> Input:
    return Input(name=name, shape=shape, dtype="float32", range=(-1, 1), why="assumed: a state")


def _ids(name: str, *shape: int | str, why: str = "") -> Input:
    bounds, assumed = names.range_of(name, "int64", shape)
    return Input(name=name, shape=shape, dtype="int64", range=bounds, why=why or assumed)


def _ranged(name: str, shape: tuple[str, ...], bounds: tuple[float, float], why: str) -> Input:
    return Input(name=name, shape=shape, dtype="int64", range=bounds, why=why)


def sizes_of(inputs: Sequence[Input], clues: Clues) -> dict[str, tuple[Size, ...]]:
    """Candidates for each dynamic dimension of guessed inputs, most wanted first."""
    found: dict[str, tuple[Size, ...]] = {}
    for one in inputs:
        for axis, dim in enumerate(one.shape):
            if isinstance(dim, str):
                sizes = names.sizes_of(
                    dim, axis=0 if dim == "batch" else axis or 1, shape=one.shape,
                    dtype=one.dtype, owner=one.name,
                )  # fmt: skip
                if dim.endswith("sequence"):
                    sizes = names.SEQUENCE
                found.setdefault(dim, _limited(dim, sizes, clues))
    return found


def tried_sizes(inputs: Sequence[Input], clues: Clues) -> list[str]:
    """What is to be said of sizes that neither a layer nor a setting shows."""
    shown = {layer.takes for layer in clues.layers} | {layer.state[1] for layer in clues.layers}
    for value in clues.config.values():
        shown |= {one for one in (value if isinstance(value, list | tuple) else [value])
                  if isinstance(one, int)}  # fmt: skip
    names = [
        one.name
        for one in inputs
        if any(isinstance(dim, int) and dim > FEW and dim not in shown for dim in one.shape[1:])
    ]
    listed = ", ".join(f"'{name}'" for name in names)
    told = f"The sizes of {listed} are the first that the model took: write yours into `shape`."
    return [told] if names else []


def _limited(dim: str, sizes: tuple[Size, ...], clues: Clues) -> tuple[Size, ...]:
    """The sizes that the settings' table of positions has room for."""
    most = clues.number("max_position_embeddings", "n_positions", "max_seq_len", "block_size")
    if "sequence" not in dim or not most or most >= 64:
        return sizes
    return ((1, most), most, *(one for one in sizes if isinstance(one, int) and one < most))
