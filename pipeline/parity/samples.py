"""Cases: the inputs that a source and its artifacts are run with, real and made. numpy only.

A tree of cases is one safetensors file a case and `cases.json`, which says what each one is.
Both ways are streamed: memory does not grow with the number of cases.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.tensors import encoded, metadata, read_tensors
from crosscast.pipeline.signature import STRING, Arrays, Signature, Tensor, numpy_dtype

Origin = Literal["real", "swept", "synthetic", "streamed", "adversarial"]

DEFAULT_RANGE = {"f": (-1.0, 1.0), "i": (0.0, 1.0), "u": (0.0, 1.0), "b": (0.0, 1.0)}
"""By numpy's kind, for an input that declares no range. Integers are mostly indices, and 0 and 1
exist in any table."""

DEFAULT_VALUES = ("", "a", "one two", "Hello, world!", "naïve café", "A-b_c 3.14", "two  spaces\t")
"""For a string input that declares no values: nothing, words, punctuation, other letters than
ASCII's, digits, runs of white space."""

SYNTHETIC_CASES = 3
"""At least so many: two different inputs are needed to see that an output varies at all."""

OFF_AXIS = 0.382
"""Where a single mark is, as a share: off every axis of symmetry, so that a flip or a shift moves
it."""

LABEL = "label"

ALONE = 6
"""Dimensions that are at their greatest alone: so many cases more at most. Each is smaller than the
one where all are at their greatest. If sizes at least double from least to greatest, those of D
dimensions are D / 2**(D - 1) of it together."""

ADVERSARIAL = (
    "zeros", "least", "greatest", "impulse", "constant", "saturating", "one-hot", "padding"
)  # fmt: skip
"""At small sizes, whatever the greatest are: the number of them is the whole cost."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of inputs.

    origin: real (the user's sample as it is), swept (real rows stacked to another batch size),
        synthetic (drawn from the declared ranges), streamed (steps of a stream, each with the state
        that the one before has left), adversarial (zeros, extremes, an impulse).
    arrays: the model's inputs by name, in the source's layout.
    dims: the size of each dynamic dimension in this case.
    follows: the name of the case whose outputs are this one's state; empty for most.
    label: what the sample is known to be; only of labelled ones.
    """

    name: str
    origin: Origin
    arrays: Arrays
    dims: Mapping[str, int] = field(default_factory=dict)
    follows: str = ""
    label: NDArray[Any] | None = None

    def entry(self) -> dict[str, Any]:
        """What `cases.json` says of it."""
        told = {"name": self.name, "origin": self.origin, "dims": dict(self.dims)}
        return {**told, "follows": self.follows} if self.follows else told

    @classmethod
    def of(
        cls, entry: Mapping[str, Any], arrays: Arrays, *, label: NDArray[Any] | None = None
    ) -> Case:
        """The inverse of `entry`."""
        return cls(
            name=entry["name"],
            origin=entry["origin"],
            arrays=arrays,
            dims=entry["dims"],
            follows=entry.get("follows", ""),
            label=label,
        )


def write_cases(cases: Iterable[Case], *, out: Path) -> dict[str, int]:
    """Write a tree of cases; give their number by origin."""
    from safetensors.numpy import save_file

    out.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for index, case in enumerate(cases):
        name = f"{index:04d}.safetensors"
        files = {out / name: case.arrays}
        if case.label is not None:
            files[_label_file(out / name)] = {LABEL: case.label}
        for path, arrays in files.items():
            strings = [key for key, value in arrays.items() if value.dtype.kind == "O"]
            stored = {key: _stored(key, value) for key, value in arrays.items()}
            save_file(stored, path, metadata=metadata(strings))
        entries.append({**case.entry(), "file": name})
    write_json(out / "cases.json", entries)
    return dict(Counter(entry["origin"] for entry in entries))


def read_cases(tree: Path) -> Iterator[Case]:
    """The cases of a tree in order, each read when it is asked for."""
    for entry in json.loads((tree / "cases.json").read_text(encoding="utf-8")):
        label = _label_file(tree / entry["file"])
        yield Case.of(
            entry,
            read_tensors(tree / entry["file"]),
            label=read_tensors(label)[LABEL] if label.exists() else None,
        )


def synthetic(
    signature: Signature, *, seed: int = 0, least: int = SYNTHETIC_CASES
) -> Iterator[Case]:
    """Inputs drawn evenly from the declared ranges, at least, middle and greatest sizes.

    seed: cases of different seeds differ. least: how many there are at least.
    """
    every = bindings(signature)
    for index in range(max(len(every), least)):
        dims = every[index % len(every)]
        random = np.random.default_rng([seed, index])
        arrays = {tensor.name: _drawn(tensor, dims, random) for tensor in signature.inputs}
        name = " ".join([f"synthetic {index}", *(f"{key}={size}" for key, size in dims.items())])
        yield Case(name=name, origin="synthetic", arrays=arrays, dims=dims)


def adversarial(signature: Signature) -> Iterator[Case]:
    """Inputs at the ends of what is declared, each unlike the others (equal ones are left out).

    zeros (or what the range has nearest to it), least, greatest; constant: the middle of the range;
    impulse: one element of a row at the greatest, the rest zeros; saturating: least and greatest
    in turn; one-hot: one channel (else one element of the last axis) at each place, another one at
    the next; padding: masks with the first position set only, everything else zeros.
    """
    dims = _small(signature)
    masks = _masks(signature)
    made: list[Arrays] = []
    for name in ADVERSARIAL:
        arrays = {
            tensor.name: _extreme(tensor, dims, name, is_mask=tensor.name in masks)
            for tensor in signature.inputs
        }
        if any(_same(arrays, other) for other in made):
            continue
        made.append(arrays)
        yield Case(name=f"adversarial {name}", origin="adversarial", arrays=arrays, dims=dims)


def example(signature: Signature, *, seed: int | Sequence[int] = 0) -> Arrays:
    """Synthetic inputs for an exporter that must not mistake a dynamic size for a fixed one:
    every dynamic size is at least 2 and unlike the others, where the declared ranges allow it.
    """
    random = np.random.default_rng(seed)
    dims = _small(signature)
    return {tensor.name: _drawn(tensor, dims, random) for tensor in signature.inputs}


def assumed_ranges(signature: Signature) -> list[str]:
    """For people: which made inputs come from a default range, for want of a declared one."""
    return [text for tensor in signature.inputs if (text := _assumed(tensor))]


def _assumed(tensor: Tensor) -> str:
    if tensor.dtype == STRING:
        assumed = "" if tensor.values else "values: some short words were assumed"
    elif tensor.range is None and tensor.dtype != "bool":
        low, high = limits(tensor)
        assumed = f"range: values in [{low:g}, {high:g}] were assumed"
    else:
        assumed = ""
    return assumed and f"input '{tensor.name}' declares no {assumed}"


def limits(tensor: Tensor) -> tuple[float, float]:
    """Least and greatest value that a made input takes; not for strings."""
    return tensor.range or DEFAULT_RANGE[np.dtype(tensor.dtype).kind]


def dynamic_dims(signature: Signature) -> list[str]:
    """Names of the inputs' dynamic dimensions in order of appearance."""
    names = (dim for tensor in signature.inputs for dim in tensor.shape if isinstance(dim, str))
    return list(dict.fromkeys(names))


def batch_dim(signature: Signature) -> str | None:
    """The dynamic dimension that comes first in every input, and nowhere else: rows can be
    stacked along it. None where there is none.
    """
    heads = {tensor.shape[0] if tensor.shape else 0 for tensor in signature.inputs}
    rest = {dim for tensor in signature.inputs for dim in tensor.shape[1:]}
    head = heads.pop() if len(heads) == 1 else None
    return head if isinstance(head, str) and head not in rest else None


def bindings(signature: Signature) -> list[dict[str, int]]:
    """Sizes to run: every dynamic dimension at its least, at an odd size in the middle (unlike
    those of the other dimensions, so that swapped ones show), each alone at its greatest beside
    the others' least (so that fixed ones show), and all at their greatest.
    """
    low: dict[str, int] = {}
    middle: dict[str, int] = {}
    high: dict[str, int] = {}
    for name in dynamic_dims(signature):
        low[name], high[name] = _bounds(signature, name)
        step = signature.steps.get(name, 1)
        taken = {size // step for size in middle.values()}
        middle[name] = _odd_middle(low[name] // step, high[name] // step, taken=taken) * step
    alone = [{**low, name: high[name]} for name in list(high)[:ALONE]]
    every = [low, middle, *alone, high]
    return [dims for index, dims in enumerate(every) if dims not in every[:index]]


def _bounds(signature: Signature, name: str) -> tuple[int, int]:
    if name not in signature.dims:
        raise StageError(
            f"dimension '{name}' has no least and greatest size",
            fix=f"declare it beside the input's shape, as in `{name}: [1, 4]`",
        )
    return signature.dims[name]


def _odd_middle(low: int, high: int, *, taken: set[int]) -> int:
    middle = (low + high) // 2
    around = range(max(low + 1, middle - 9), min(high - 1, middle + 9) + 1)
    odd = [size for size in around if size % 2 and size not in taken]
    return min(odd, key=lambda size: (abs(size - middle), -size), default=middle)


def _small(signature: Signature) -> dict[str, int]:
    names = dynamic_dims(signature)
    fixed = {dim for tensor in signature.inputs for dim in tensor.shape if isinstance(dim, int)}
    dims: dict[str, int] = {}
    for name in names:
        step = signature.steps.get(name, 1)
        low, high = (bound // step for bound in _bounds(signature, name))
        start = min(max(low, 2), high) * step
        window = range(start, min(high * step, start + (len(names) + len(fixed)) * step) + 1, step)
        free = [size for size in window if size not in dims.values()]
        unlike = [size for size in free if size not in fixed]
        dims[name] = next(iter([*unlike, *free, start]))
    return dims


def _shape(tensor: Tensor, dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dims[dim] if isinstance(dim, str) else dim for dim in tensor.shape)


def _drawn(tensor: Tensor, dims: Mapping[str, int], random: np.random.Generator) -> NDArray[Any]:
    shape, dtype = _shape(tensor, dims), numpy_dtype(tensor.dtype)
    if tensor.dtype == STRING:
        values = _values(tensor)
        places = random.integers(0, len(values), shape)
        return np.asarray(np.array(values, dtype=dtype)[places])
    low, high = limits(tensor)
    if dtype.kind == "f":
        # rounding to the dtype may step over an end of the range
        drawn = np.asarray(random.uniform(low, high, shape)).astype(dtype)
        return np.asarray(np.clip(drawn, dtype.type(low), dtype.type(high)))
    least, greatest = int(np.ceil(low)), int(np.floor(high))
    return np.asarray(random.integers(least, greatest, shape, endpoint=True)).astype(dtype)


def _masks(signature: Signature) -> set[str]:
    """Names of the inputs that say which tokens count: 0 or 1 for each of another's integers."""
    whole = [tensor for tensor in signature.inputs if numpy_dtype(tensor.dtype).kind in "iub"]
    tokens = {tensor.shape for tensor in whole if limits(tensor) != (0, 1)}
    return {tensor.name for tensor in whole if limits(tensor) == (0, 1) and tensor.shape in tokens}


def _extreme(tensor: Tensor, dims: Mapping[str, int], name: str, *, is_mask: bool) -> NDArray[Any]:
    low, middle, high, rest = _ends(tensor)
    start = {"least": low, "saturating": low, "constant": middle, "greatest": high}.get(name, rest)
    array = np.full(_shape(tensor, dims), start, dtype=numpy_dtype(tensor.dtype))
    if name in ("impulse", "saturating", "one-hot") or (name == "padding" and is_mask):
        inner = array.shape[1:] or array.shape or (1,)
        channels = 0 if tensor.layout == "nchw" else -1
        array.reshape(-1, *inner)[:, _marked(name, inner, channels)] = high
    return array


def _marked(name: str, shape: tuple[int, ...], channels: int) -> NDArray[Any]:
    """Which elements of a row are at the greatest. channels: the axis of one-hot vectors."""
    places = np.arange(math.prod(shape)).reshape(shape)
    if name == "impulse":
        return np.asarray(places == int(places.size * OFF_AXIS))
    if name == "saturating":
        return np.asarray(places % 2 == 1)
    if name == "one-hot":
        count = shape[channels]
        diagonal = sum(np.ogrid[tuple(slice(size) for size in shape)])
        return np.asarray(diagonal % count == int(count * OFF_AXIS))
    return np.asarray(places % shape[-1] == 0)


def _ends(tensor: Tensor) -> tuple[Any, Any, Any, Any]:
    """The least, a middle and the greatest value, and what is nearest to nothing."""
    if tensor.dtype == STRING:
        values = sorted(_values(tensor), key=len)
        return values[0], values[len(values) // 2], values[-1], "" if "" in values else values[0]
    low, high = limits(tensor)
    # halved first: the sum of huge ones would overflow
    middle = low / 2 + high / 2
    is_float = np.dtype(tensor.dtype).kind == "f"
    return low, middle if is_float else math.ceil(middle), high, min(max(0.0, low), high)


def _values(tensor: Tensor) -> tuple[str, ...]:
    return tensor.values or DEFAULT_VALUES


def _same(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def _label_file(case: Path) -> Path:
    return case.with_suffix(f".{LABEL}.safetensors")


def _stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "O":
        return encoded(array, name=name)
    # ascontiguousarray would give a scalar a dimension
    return np.array(array, order="C")
