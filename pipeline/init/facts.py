"""What a look at a model found: the values that the config is written from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeAlias

from crosscast.pipeline.signature import Layout, Signature, Tensor
from crosscast.targets.base import Delivered

Size: TypeAlias = "int | tuple[int, int]"
"""Of a dimension: fixed, or [least, greatest]."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input.

    shape: an int for a fixed dimension, a name for a dynamic one.
    range: None where the dtype has none (bool, string), or nothing is to be said of it.
    why: what shows the range, or that it is assumed; the comment beside it.
    layout: of an image, where it is not the source framework's own.
    values: what a string input may be.
    fed_by: the output that is this input's next value, where it is a state for certain.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    range: tuple[float, float] | None = None
    why: str = ""
    layout: Layout | None = None
    values: tuple[str, ...] = ()
    fed_by: str = ""

    def tensor(self, layout: Layout) -> Tensor:
        """As a config that declares it would; `layout` is the source framework's own."""
        image = len(self.shape) == 4 and self.dtype.startswith("float")
        return Tensor(
            name=self.name,
            shape=self.shape,
            dtype=self.dtype,
            layout=self.layout or (layout if image else None),
            range=self.range,
        )


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model.

    source: the keys of the config's source that the look settled, with absolute paths.
    dims: the least and greatest size of each dynamic dimension. dim_notes: comments on them.
    operators: how often each occurs, by ONNX's name where there is an equal.
    weights: bytes of all weights.
    opset: of an ONNX file; 0 for other models.
    held: the precision of the weights, which a file may have less of than float32.
    limits: why a family of targets ("tflite") or a precision ("int8") is out of the question.
    notes: other findings, for the head of the config.
    """

    source: Mapping[str, Any]
    inputs: tuple[Input, ...]
    dims: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    dim_notes: Mapping[str, str] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)
    weights: int = 0
    opset: int = 0
    held: Delivered = "fp32"
    limits: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def signature(self, layout: Layout) -> Signature:
        """The inputs as a config that declares them would; `layout` is the framework's own."""
        return Signature(inputs=tuple(one.tensor(layout) for one in self.inputs), dims=self.dims)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        inputs = tuple(_input(entry) for entry in value["inputs"])
        dims = {name: (low, high) for name, (low, high) in value["dims"].items()}
        return cls(**{**value, "inputs": inputs, "dims": dims, "notes": tuple(value["notes"])})


def _input(entry: Mapping[str, Any]) -> Input:
    bounds = entry["range"]
    return Input(
        **{
            **entry,
            "shape": tuple(entry["shape"]),
            "range": None if bounds is None else (bounds[0], bounds[1]),
            "values": tuple(entry["values"]),
        }
    )
