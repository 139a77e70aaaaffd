"""What goes into a model and what comes out: names, shapes, dtypes and layouts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from crosscast.pipeline.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Layout = Literal["nchw", "nhwc"]
Arrays: TypeAlias = "dict[str, NDArray[Any]]"

STRING = "string"
"""The dtype of text. In memory: numpy arrays of dtype object that hold str."""

PERMUTATIONS: dict[tuple[Layout, Layout], tuple[int, ...]] = {
    ("nchw", "nhwc"): (0, 2, 3, 1),
    ("nhwc", "nchw"): (0, 3, 1, 2),
}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output.

    shape: an int for a fixed dimension, a name for a dynamic one.
    dtype: numpy's name ("float32", "int64", "bool"), or "string".
    layout: of a rank-4 image tensor; None for everything else.
    range: least and greatest value an input takes; None where it was not declared.
    values: strings that an input of dtype "string" takes; None where they were not declared.
    quantization: (scale, zero point) of an integer that stands for a real number, which is
        scale * (value - zero point); None for everything else.
    fed_by: the output that gives this input its value in the next call, where the input is a state.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: Layout | None = None
    range: tuple[float, float] | None = None
    quantization: tuple[float, int] | None = None
    values: tuple[str, ...] | None = None
    fed_by: str | None = None

    def permuted(self, layout: Layout | None) -> Tensor:
        """The same tensor in another layout; itself where layouts do not apply to it."""
        order = axes(self.layout, layout)
        if order is None:
            return self
        shape = tuple(self.shape[axis] for axis in order)
        return replace(self, shape=shape, layout=layout)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The inputs and outputs of a model, in order.

    dims: the least and greatest size of each dynamic dimension, by name.
    steps: what sizes of a dimension are multiples of, by name; 1 where it is not told.
    outputs: empty until the source has been run once.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] = ()
    dims: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)

    def permuted(self, layout: Layout | None) -> Signature:
        """The signature of the same model with its image inputs and outputs in `layout`."""
        return Signature(
            inputs=tuple(tensor.permuted(layout) for tensor in self.inputs),
            outputs=tuple(tensor.permuted(layout) for tensor in self.outputs),
            dims=self.dims,
            steps=self.steps,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back."""
        value = asdict(self)
        return value if self.steps else {key: value[key] for key in value if key != "steps"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            inputs=tuple(_tensor(entry) for entry in value["inputs"]),
            outputs=tuple(_tensor(entry) for entry in value.get("outputs", ())),
            dims={name: (low, high) for name, (low, high) in value.get("dims", {}).items()},
            steps=dict(value.get("steps", {})),
        )


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype for that of a Tensor: strings are objects (str) in memory."""
    import numpy as np  # not above: planning needs signatures, but no arrays

    return np.dtype(object if name == STRING else name)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The inverse of `numpy_dtype`; numpy's own arrays of Unicode are strings as well."""
    return STRING if dtype.kind in "OU" else dtype.name


def axes(source: Layout | None, wanted: Layout | None) -> tuple[int, ...] | None:
    """The transposition that brings `source` to `wanted`; None where nothing is to be done."""
    if source is None or wanted is None or source == wanted:
        return None
    return PERMUTATIONS[source, wanted]


def permute(arrays: Arrays, *, tensors: tuple[Tensor, ...], layout: Layout | None) -> Arrays:
    """The arrays of `tensors`, each brought from its own layout to `layout`."""
    import numpy as np  # not above: planning needs signatures, but no arrays

    result = dict(arrays)
    for tensor in tensors:
        order = axes(tensor.layout, layout)
        if order is not None and tensor.name in arrays:
            result[tensor.name] = np.ascontiguousarray(arrays[tensor.name].transpose(order))
    return result


def scored(outputs: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """The first output that has a score for each label: [n, labels], further axes being 1.

    Raises StageError where there is none.
    """
    counts = {tensor: _scores(tensor) for tensor in outputs}
    for tensor, count in counts.items():
        if count == len(labels):
            return tensor
    told = [f"'{tensor.name}' has {count}" for tensor, count in counts.items() if count]
    raise StageError(
        f"`labels` names {len(labels)} classes, and no output has a score for each of them"
        + (f": {', '.join(told)}" if told else ""),
        fix="give `labels` one name for each score, in the order of the scores",
    )


def _scores(tensor: Tensor) -> int:
    """How many scores an output has for one thing; 0 where it has none."""
    sizes = [dim for dim in tensor.shape[1:] or tensor.shape if dim != 1]
    is_one = len(sizes) == 1 and tensor.dtype.startswith("float")
    return sizes[0] if is_one and isinstance(sizes[0], int) else 0


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    bounds, numbers = entry.get("range"), entry.get("quantization")
    values = entry.get("values")
    return Tensor(
        name=entry["name"],
        shape=tuple(entry["shape"]),
        dtype=entry["dtype"],
        layout=entry.get("layout"),
        range=None if bounds is None else (bounds[0], bounds[1]),
        quantization=None if numbers is None else (numbers[0], numbers[1]),
        values=None if values is None else tuple(values),
        fed_by=entry.get("fed_by"),
    )
