"""One ONNX operator on its way to MIL: its operands, its attributes, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from crosscast.pipeline.errors import StageError

if TYPE_CHECKING:
    from onnx import NodeProto

Operand: TypeAlias = Any
"""A numpy array for what is known as it is converted, otherwise a MIL variable."""

Operator = Callable[["Node"], Any]
"""Lowers one ONNX operator: gives an Operand, or a tuple of them where it has several outputs."""

INT32 = np.iinfo(np.int32)
REMEDY = "replace it in the model with operators that Core ML has, or remove this target"
FREEZE = "make it a constant of the model, or remove this target"


MAX_RANK = 5
"""Of a tensor in a ML Program."""


@dataclass(frozen=True, kw_only=True)
class Wide:
    """A tensor of more dimensions than Core ML has, on its way from one reshape to another.

    value: its elements in order, in fewer dimensions. sizes: ints, variables of shape (1,), and -1
    at most once.
    """

    value: Any
    sizes: tuple[Any, ...]


class Node:
    """An operator of the graph.

    mb: coremltools' builder. system: the oldest iOS that runs the program (15, 16 …).
    operands: by position; None for one that is left out. dtypes: numpy's name of each operand's
    ONNX dtype, since MIL has fewer. outputs: their names, "" for one that nothing reads; by default
    those that the operator states. The attributes that are read are remembered: one that nobody
    asked for was not understood.
    """

    def __init__(
        self,
        proto: NodeProto,
        operands: Sequence[Operand | None],
        *,
        mb: Any,
        system: int,
        dtypes: Sequence[str] = (),
        outputs: Sequence[str] | None = None,
    ) -> None:
        self.kind: str = f"{proto.domain}.{proto.op_type}" if named(proto) else proto.op_type
        self.layer: str = proto.name or next(iter(proto.output), "") or proto.op_type
        self.outputs: tuple[str, ...] = tuple(proto.output if outputs is None else outputs)
        self.mb = mb
        self.system = system
        self._operands = tuple(operands)
        self._dtypes = tuple(dtypes)
        self._attributes = _attributes(proto)
        self._read: set[str] = set()

    def __len__(self) -> int:
        return len(self._operands)

    def refused(self, why: str, fix: str = REMEDY) -> StageError:
        """The error that this operator cannot be converted, and why."""
        return StageError(
            f"Core ML from ONNX: operator {self.kind} (layer {self.layer}): {why}", fix=fix
        )

    def too_wide(self, dims: int) -> StageError:
        """The error that a tensor has too many dimensions."""
        return self.refused(
            f"a tensor of rank {dims}; Core ML takes {MAX_RANK} dimensions at most",
            "reshape it inside the model to fewer dimensions, or remove this target",
        )

    # Attributes

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: int, float, str, list, numpy array or graph."""
        self._read.add(name)
        return self._attributes.get(name, default)

    def ignore(self, *names: str) -> None:
        """Attributes that change nothing here."""
        self._read.update(names)

    def only(self, name: str, value: Any) -> None:
        """Raise StageError where an attribute has another value than its default `value`."""
        found = self.attribute(name, value)
        if found != value:
            raise self.refused(f"attribute {name}={_shown(found)} is not supported, only {value}")

    def refuse_unread(self) -> None:
        """Raise StageError for an attribute that nothing has asked for."""
        for name in self._attributes:
            if name not in self._read:
                raise self.refused(
                    f"attribute {name}={_shown(self._attributes[name])} is not supported"
                )

    # Operands

    def has(self, index: int) -> bool:
        """Whether an optional operand is given."""
        return index < len(self._operands) and self._operands[index] is not None

    def wants(self, index: int) -> bool:
        """Whether an optional output is used."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def operand(self, index: int) -> Operand:
        """An operand as it is."""
        if not self.has(index):
            raise self.refused(f"input {index} is missing")
        return self._operands[index]

    def x(self, index: int = 0) -> Operand:
        """An operand as MIL takes it: constants in its dtypes, float32, int32 and bool."""
        return self.mil(self.operand(index))

    def every(self) -> list[Operand]:
        """All operands, as MIL takes them."""
        return [self.x(index) for index in range(len(self)) if self.has(index)]

    def is_constant(self, index: int) -> bool:
        """Whether an operand is given and known."""
        return self.has(index) and isinstance(self._operands[index], np.ndarray)

    def constant(self, index: int, what: str) -> Any:
        """A known operand, as a numpy array. Raises StageError where it is computed."""
        value = self.operand(index)
        if not isinstance(value, np.ndarray):
            raise self.refused(f"its {what} is computed by the model", FREEZE)
        return value

    def ints(self, index: int, what: str) -> list[int]:
        """A known operand of integers, as a list."""
        return [int(one) for one in np.ravel(self.constant(index, what))]

    def dtype(self, index: int = 0) -> str:
        """Numpy's name of the operand's ONNX dtype."""
        value = self.operand(index)
        if isinstance(value, np.ndarray):
            return str(value.dtype.name)
        return self._dtypes[index] if index < len(self._dtypes) else ""

    def mil(self, value: Operand) -> Operand:
        """A constant in a dtype of MIL, or the variable itself."""
        if isinstance(value, Wide):
            raise self.too_wide(len(value.sizes))
        if not isinstance(value, np.ndarray):
            return value
        try:
            return narrowed(value)
        except ValueError as error:
            raise self.refused(str(error)) from None


def named(proto: NodeProto) -> bool:
    """Whether the operator is of another domain than ONNX's own."""
    return proto.domain not in ("", "ai.onnx")


def narrowed(value: Any) -> Any:
    """A numpy array in a dtype of MIL; a numpy scalar for rank 0.

    Raises ValueError for integers beyond int32, and for what is no number.
    """
    kind = value.dtype.kind
    if kind == "f" or value.dtype.name == "bfloat16":
        result = value.astype(np.float32)
    elif kind in "iu":
        if value.size and (value.min() < INT32.min or value.max() > INT32.max):
            raise ValueError("it holds integers beyond int32, the only ones that Core ML has")
        result = value.astype(np.int32)
    elif kind == "b":
        result = value
    else:
        raise ValueError(f"it holds {value.dtype.name}, which Core ML has not")
    return result[()] if result.ndim == 0 else np.ascontiguousarray(result)


def _attributes(proto: NodeProto) -> Mapping[str, Any]:
    from onnx import helper, numpy_helper

    found = {}
    for entry in proto.attribute:
        value = helper.get_attribute_value(entry)
        if entry.type == entry.STRING:
            value = value.decode("utf-8", "replace")
        elif entry.type == entry.STRINGS:
            value = [one.decode("utf-8", "replace") for one in value]
        elif entry.type == entry.TENSOR:
            value = numpy_helper.to_array(value)
        elif entry.type in (entry.INTS, entry.FLOATS):
            value = list(value)
        found[entry.name] = value
    return found


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:40]}…"
