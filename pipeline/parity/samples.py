"""Cases: the inputs that a source and its artifacts are run with, real and made. numpy only.

A tree of cases is one safetensors file a case and `cases.json`, which says what each one is.
Both ways are streamed: memory does not grow with the number of cases.
"""

from __future__ import annotations

import json
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

Origin = Literal["real", "swept", "synthetic", "adversarial"]

DEFAULT_RANGE = {"f": (-1.0, 1.0), "i": (0.0, 1.0), "u": (0.0, 1.0), "b": (0.0, 1.0)}
"""By numpy's kind, for an input that declares no range. Integers are mostly indices, and 0 and 1
exist in any table."""

DEFAULT_VALUES = ("", "a", "one two", "Hello, world!", "naïve café", "A-b_c 3.14", "two  spaces\t")
"""For a string input that declares no values: nothing, words, punctuation, other letters than
ASCII's, digits, runs of white space."""

SYNTHETIC_CASES = 3
"""At least so many: two different inputs are needed to see that an output varies at all."""

TEXT_CASES = 12
"""Strings have no ends to go to: they are drawn more often, several times at each size."""

LABEL = "label"

STACKED_CASES = 8
"""Real cases that are held in memory to be stacked into batches."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of inputs.

    origin: real (the user's sample as it is), swept (real rows stacked to another batch size),
        synthetic (drawn from the declared ranges), adversarial (zeros, extremes, an impulse).
    arrays: the model's inputs by name, in the source's layout.
    dims: the size of each dynamic dimension in this case.
    label: what the sample is known to be; only of labelled ones.
    """

    name: str
    origin: Origin
    arrays: Arrays
    dims: Mapping[str, int] = field(default_factory=dict)
    label: NDArray[Any] | None = None


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
        entries.append(
            {"name": case.name, "origin": case.origin, "file": name, "dims": dict(case.dims)}
        )
    write_json(out / "cases.json", entries)
    return dict(Counter(entry["origin"] for entry in entries))


def read_cases(tree: Path) -> Iterator[Case]:
    """The cases of a tree in order, each read when it is asked for."""
    for entry in json.loads((tree / "cases.json").read_text(encoding="utf-8")):
        label = _label_file(tree / entry["file"])
        yield Case(
            name=entry["name"],
            origin=entry["origin"],
            arrays=read_tensors(tree / entry["file"]),
            dims=entry["dims"],
            label=read_tensors(label)[LABEL] if label.exists() else None,
        )


def parity_cases(real: Iterable[Case], *, signature: Signature) -> Iterator[Case]:
    """Real cases as they are, then what makes them a proof: batch sizes, other dynamic sizes,
    adversarial rows. Synthetic ones take the place of real ones where there are none.
    """
    stack: list[Case] = []
    seen: set[int] = set()
    batch = batch_dim(signature)
    found = False
    for case in real:
        found = True
        if batch is not None:
            seen.add(case.dims[batch])
        if len(stack) < STACKED_CASES:
            stack.append(case)
        yield case
    yield from swept(stack, signature=signature, seen=seen)
    if not found or set(dynamic_dims(signature)) - {batch}:
        texts = any(tensor.dtype == STRING for tensor in signature.inputs)
        yield from synthetic(signature, least=TEXT_CASES if texts else SYNTHETIC_CASES)
    yield from adversarial(signature)


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
    """Zeros (or what the range has nearest to it), both ends of the range, one impulse a row."""
    dims = _small(signature)
    made: list[Arrays] = []
    for name in ("zeros", "least", "greatest", "impulse"):
        arrays = {tensor.name: _extreme(tensor, dims, name) for tensor in signature.inputs}
        if any(_same(arrays, other) for other in made):
            continue
        made.append(arrays)
        yield Case(name=f"adversarial {name}", origin="adversarial", arrays=arrays, dims=dims)


def swept(stack: Sequence[Case], *, signature: Signature, seen: set[int]) -> Iterator[Case]:
    """Real rows stacked, and repeated where they are too few, to each batch size not `seen`."""
    batch = batch_dim(signature)
    if batch is None or not stack:
        return
    first = stack[0]
    alike = [case for case in stack if {**case.dims, batch: 0} == {**first.dims, batch: 0}]
    for dims in bindings(signature):
        size = dims[batch]
        if size in seen:
            continue
        seen.add(size)
        arrays = {tensor.name: _tiled(tensor.name, alike, size) for tensor in signature.inputs}
        name = f"swept {batch}={size}"
        yield Case(name=name, origin="swept", arrays=arrays, dims={**first.dims, batch: size})


def example(signature: Signature) -> Arrays:
    """Synthetic inputs for an exporter that must not mistake a dynamic size for a fixed one:
    every dynamic size is at least 2 and unlike the others, where the declared ranges allow it.
    """
    random = np.random.default_rng(0)
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
    those of the other dimensions, so that swapped ones show), and at its greatest.
    """
    low: dict[str, int] = {}
    middle: dict[str, int] = {}
    high: dict[str, int] = {}
    for name in dynamic_dims(signature):
        low[name], high[name] = _bounds(signature, name)
        step = signature.steps.get(name, 1)
        taken = {size // step for size in middle.values()}
        middle[name] = _odd_middle(low[name] // step, high[name] // step, taken=taken) * step
    every = [low, middle, high]
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


def _extreme(tensor: Tensor, dims: Mapping[str, int], name: str) -> NDArray[Any]:
    low, high, rest = _ends(tensor)
    value = {"zeros": rest, "least": low, "greatest": high, "impulse": rest}[name]
    array = np.full(_shape(tensor, dims), value, dtype=numpy_dtype(tensor.dtype))
    if name == "impulse":
        rows = array.reshape(array.shape[0] if array.ndim > 1 else 1, -1)
        # off every axis of symmetry, so that a flip or a shift moves it
        rows[:, int(rows.shape[1] * 0.382)] = high
    return array


def _ends(tensor: Tensor) -> tuple[Any, Any, Any]:
    """The least and the greatest value, and what is nearest to nothing."""
    if tensor.dtype == STRING:
        values = _values(tensor)
        return min(values, key=len), max(values, key=len), "" if "" in values else values[0]
    low, high = limits(tensor)
    return low, high, min(max(0.0, low), high)


def _values(tensor: Tensor) -> tuple[str, ...]:
    return tensor.values or DEFAULT_VALUES


def _tiled(name: str, cases: Sequence[Case], size: int) -> NDArray[Any]:
    rows = np.concatenate([case.arrays[name] for case in cases])
    return np.resize(rows, (size, *rows.shape[1:]))


def _same(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def _label_file(case: Path) -> Path:
    return case.with_suffix(f".{LABEL}.safetensors")


def _stored(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "O":
        return encoded(array, name=name)
    # ascontiguousarray would give a scalar a dimension
    return np.array(array, order="C")
