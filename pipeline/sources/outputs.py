"""The outputs of a model as two runs on inputs of different sizes show them. No framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor, dtype_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run: TypeAlias = "Callable[[Arrays], Arrays]"


def examples(signature: Signature) -> tuple[Arrays, Arrays]:
    """Two sets of inputs that differ in every value and in the size of every dynamic dimension."""
    from crosscast.pipeline.parity.samples import example

    first = example(signature)
    fixed = _resized(signature, _other_sizes(signature, sizes(signature.inputs, first)))
    return first, {name: _mirrored(array) for name, array in example(fixed).items()}


def sizes(tensors: Sequence[Tensor], arrays: Arrays) -> dict[str, int]:
    """The size that each dynamic dimension has in `arrays`."""
    return {
        dim: size
        for tensor in tensors
        for dim, size in zip(tensor.shape, arrays[tensor.name].shape, strict=True)
        if isinstance(dim, str)
    }


def described(run: Run, signature: Signature) -> tuple[Tensor, ...]:
    """The outputs of `run`: an axis that changes with a dynamic dimension bears its name.

    One that changes otherwise (twice the width, a number of detections) is named
    "<output>_dim<axis>". Rank-4 outputs have the layout that the inputs have.
    """
    first, second = examples(signature)
    known = _pairs(sizes(signature.inputs, first), sizes(signature.inputs, second))
    before, after = run(first), run(second)
    layout = common_layout(signature.inputs)
    return tuple(
        _tensor(name, dtype_name(array.dtype), array.shape, after[name].shape, known, layout)
        for name, array in before.items()
    )


def common_layout(tensors: Sequence[Tensor]) -> Layout | None:
    """The layout of a model's images, or None where it has none or several."""
    layouts = {tensor.layout for tensor in tensors if tensor.layout is not None}
    return layouts.pop() if len(layouts) == 1 else None


def named(arrays: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the outputs: those wanted, if there are as many as the model has."""
    if wanted is None:
        return tuple(arrays)
    if len(wanted) != len(arrays):
        raise StageError(
            f"outputs: {len(wanted)} names ({', '.join(wanted)}) for a model that gives "
            f"{len(arrays)} ({', '.join(arrays)})",
            fix="name every output, in the model's order, or none",
        )
    return tuple(wanted)


def entries(value: Any) -> list[tuple[str, Any]] | None:
    """What a dict, dataclass, named tuple, tuple or list that a model returned holds, by key, field
    or place; places do not count None. None for anything else.
    """
    if isinstance(value, Mapping):
        return [(str(key), entry) for key, entry in value.items()]
    if is_dataclass(value):
        return [(part.name, getattr(value, part.name)) for part in fields(value)]
    if hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        kept = [entry for entry in value if entry is not None]
        return [(str(index), entry) for index, entry in enumerate(kept)]
    return None


def shapes(arrays: Arrays) -> str:
    """For messages: "image[2,3,224,224] float32, mask[2,7] int64"."""
    return ", ".join(
        f"{name}[{','.join(map(str, array.shape))}] {dtype_name(array.dtype)}"
        for name, array in arrays.items()
    )


def _other_sizes(signature: Signature, used: Mapping[str, int]) -> dict[str, int]:
    """Another size within the range of every dimension, distinct where the ranges let them be.

    Small ones, as they are run; 1 comes last, since a model may treat it in a way of its own.
    """
    chosen: dict[str, int] = {}
    for name, size in used.items():
        step = signature.steps.get(name, 1)
        low, high = (bound // step for bound in signature.dims[name])
        free = [unit * step for unit in _ascending(low, high) if unit * step != size]
        fresh = [other for other in free if other not in chosen.values()]
        chosen[name] = next(iter(fresh or free), size)
    return chosen


def _ascending(low: int, high: int) -> Iterator[int]:
    # As many candidates as there can be dimensions: ranges may be huge.
    yield from range(max(low, 2), min(high, max(low, 2) + 32) + 1)
    if low <= 1:
        yield 1


def _resized(signature: Signature, chosen: Mapping[str, int]) -> Signature:
    inputs = tuple(
        replace(tensor, shape=tuple(chosen.get(str(dim), dim) for dim in tensor.shape))
        for tensor in signature.inputs
    )
    return replace(signature, inputs=inputs)


def _mirrored(array: NDArray[Any]) -> NDArray[Any]:
    """The values turned upside down within their own range: other values, as legal as they were."""
    import numpy as np

    if array.dtype.kind == "b":
        return np.asarray(~array)
    if array.dtype.kind == "O":
        return np.flip(array)
    if not array.size:
        return array
    return np.asarray(array.min() + array.max() - array).astype(array.dtype)


def _pairs(first: Mapping[str, int], second: Mapping[str, int]) -> dict[tuple[int, int], str]:
    """Names by the sizes in both runs; dimensions that never changed are not told from fixed."""
    pairs: dict[tuple[int, int], str] = {}
    for name, size in first.items():
        if size != second[name]:
            pairs.setdefault((size, second[name]), name)
    return pairs


def _tensor(
    name: str,
    dtype: str,
    before: tuple[int, ...],
    after: tuple[int, ...],
    known: Mapping[tuple[int, int], str],
    layout: Layout | None,
) -> Tensor:
    if len(before) != len(after):
        raise StageError(
            f"output '{name}' has {len(before)} dimensions for one size of input and "
            f"{len(after)} for another",
            fix="squeeze() without a dimension does that: name the dimension, or fix the sizes",
        )
    shape = tuple(
        a if a == b else known.get((a, b), f"{name}_dim{axis}")
        for axis, (a, b) in enumerate(zip(before, after, strict=True))
    )
    return Tensor(name=name, shape=shape, dtype=dtype, layout=layout if len(shape) == 4 else None)
