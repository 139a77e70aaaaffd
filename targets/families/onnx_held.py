"""What an ONNX or ORT file holds, as far as an audit reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crosscast.targets.base import Delivered

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELIVERED: Mapping[str, Delivered] = {
    "float32": "fp32",
    "float64": "fp32",
    "float16": "fp16",
    "bfloat16": "fp16",
    "int8": "int8",
    "uint8": "int8",
    "int32": "int8",  # biases of int8 layers
    "int4": "int4",
    "uint4": "int4",
}
FLOATS = {name for name, precision in DELIVERED.items() if precision in ("fp32", "fp16")}

FLOAT_KINDS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""ONNX's numbers of the float types."""

BYTES = ("int8", "uint8")
"""What is a stored number where it is cast: no shape and no index is kept in them."""

STORED: Mapping[str, tuple[Sequence[int], Sequence[int]]] = {
    "QuantizeLinear": ((0,), ()),
    "DequantizeLinear": ((0,), ()),
    "MatMulInteger": ((0, 1), ()),
    "ConvInteger": ((0, 1), ()),
    "QLinearConv": ((0, 3, 8), ()),
    "QLinearMatMul": ((0, 3), ()),
    "QGemm": ((0, 3, 6), ()),
    "MatMulIntegerToFloat": ((0, 1), (6,)),
    "DynamicQuantizeMatMul": ((1,), (4,)),
    "DynamicQuantizeLSTM": ((1, 2), (3,)),
    "QAttention": ((0, 1), (2,)),
    "MatMulNBits": ((1,), (5,)),
    "GatherBlockQuantized": ((0,), ()),
}
"""Operators that read stored numbers: the inputs that are, and those that are floats as they are.
All others are scales and zero points."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator; "" among the inputs for those that are left out. numbers: its attributes that
    are integers, by name.
    """

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    name: str = ""
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a file holds. constants: dtype (numpy's name) and bytes by name. attributes: bytes of
    float32 numbers that operators hold themselves (trees, support vectors). dtypes: those of
    inputs, and of other values as far as the file tells them. results: the outputs of graphs.
    read: a constant's values.
    """

    constants: Mapping[str, tuple[str, int]]
    nodes: Sequence[Node] = field(default_factory=tuple)
    attributes: int = 0
    dtypes: Mapping[str, str] = field(default_factory=dict)
    results: Set[str] = frozenset()
    read: Callable[[str], NDArray[Any]] | None = None
