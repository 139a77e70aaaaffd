"""An ML Program as plain data, read from the protobuf of a package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.targets.families.mil.blobs import Blobs, unpacked

DTYPES = {
    "BOOL": "bool",
    "STRING": "str",
    "FLOAT16": "fp16",
    "FLOAT32": "fp32",
    "FLOAT64": "fp64",
    **{f"INT{bits}": f"int{bits}" for bits in (4, 8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)},
}
"""MIL's names of dtypes, by those of the protobuf."""

OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 18}
"""The iOS whose operators an opset has; CoreML9 (iOS 26) changed none of CoreML8's."""


@dataclass(frozen=True, kw_only=True)
class Type:
    """The declared type of a value.

    dtype: MIL's name of the elements' ("fp16", "int32", "bool", "str"), or "list", "dict".
    shape: None for a dimension that is not known before it runs; () for scalars, lists and dicts.
    variadic: whether the number of dimensions is not known either; `shape` says nothing then.
    state: whether it is a state that holds such a value.
    """

    dtype: str
    shape: tuple[int | None, ...] = ()
    variadic: bool = False
    state: bool = False


@dataclass(frozen=True, kw_only=True)
class Port:
    """A named value: an input of a function or block, an output of an operation."""

    name: str
    type: Type


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A value that the file holds.

    value: a numpy array; str for scalar text; a list for lists.
    """

    type: Type
    value: Any


Argument: TypeAlias = "str | Constant"
"""The name of a value, or the value."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operator.

    arguments: by parameter, attributes among them; more than one for tuples.
    """

    type: str
    name: str
    arguments: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[Port, ...]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Block:
    """Operations in order, and the names of the values that they give."""

    inputs: tuple[Port, ...] = ()
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function; opset: the iOS whose operators it uses."""

    inputs: tuple[Port, ...]
    opset: int
    block: Block


@dataclass(frozen=True)
class Reader:
    """Reads the messages of one package."""

    blobs: Blobs = field(default_factory=Blobs)

    def function(self, message: Any) -> Function:
        """A function's specialization for its own opset."""
        opset = OPSETS.get(message.opset)
        if opset is None:
            raise Unproven(f"evaluator has no opset '{message.opset}'")
        if message.opset not in message.block_specializations:
            raise StageError(f"the ML Program has no block for its opset {message.opset}")
        return Function(
            inputs=tuple(_port(entry) for entry in message.inputs),
            opset=opset,
            block=self.block(message.block_specializations[message.opset]),
        )

    def block(self, message: Any) -> Block:
        """A block with all that is nested in it."""
        return Block(
            inputs=tuple(_port(entry) for entry in message.inputs),
            outputs=tuple(message.outputs),
            operations=tuple(self.operation(entry) for entry in message.operations),
        )

    def operation(self, message: Any) -> Operation:
        """An operation; its name is an attribute in the file, but no argument."""
        attributes = {key: self.constant(value) for key, value in message.attributes.items()}
        name = attributes.pop("name", None)
        arguments: dict[str, tuple[Argument, ...]] = {
            key: (constant,) for key, constant in attributes.items()
        }
        for key, argument in message.inputs.items():
            arguments[key] = tuple(self._bound(binding) for binding in argument.arguments)
        outputs = tuple(_port(entry) for entry in message.outputs)
        return Operation(
            type=message.type,
            name=str(name.value) if name else outputs[0].name if outputs else message.type,
            arguments=arguments,
            outputs=outputs,
            blocks=tuple(self.block(entry) for entry in message.blocks),
        )

    def constant(self, message: Any) -> Constant:
        """A value, from the protobuf or from a file of weights."""
        declared = _type(message.type)
        if message.WhichOneof("value") == "blobFileValue":
            place = message.blobFileValue
            shape = tuple(size or 0 for size in declared.shape)
            array = self.blobs.read(place.fileName, place.offset, declared.dtype, shape)
            return Constant(type=declared, value=array)
        immediate = message.immediateValue
        kind = immediate.WhichOneof("value")
        if kind == "tensor":
            return Constant(type=declared, value=_immediate(immediate.tensor, declared))
        if kind in ("list", "tuple"):
            values = [self.constant(entry).value for entry in getattr(immediate, kind).values]
            return Constant(type=declared, value=values)
        raise Unproven(f"evaluator has no constants of kind '{kind}'")

    def _bound(self, binding: Any) -> Argument:
        if binding.WhichOneof("binding") == "name":
            return str(binding.name)
        return self.constant(binding.value)


def operations(block: Block) -> Iterator[Operation]:
    """All operations of a block, nested ones included."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)


def constants(block: Block) -> dict[str, Any]:
    """The values of a block's plain constants, by name."""
    found = {}
    for operation in block.operations:
        if operation.type == "const":
            (argument,) = operation.arguments["val"]
            if isinstance(argument, Constant):
                found[operation.outputs[0].name] = argument.value
    return found


def _port(message: Any) -> Port:
    return Port(name=message.name, type=_type(message.type))


def _type(message: Any) -> Type:
    kind = message.WhichOneof("type")
    if kind == "stateType":
        held = _type(message.stateType.wrappedType)
        return Type(dtype=held.dtype, shape=held.shape, state=True)
    if kind == "tensorType":
        tensor = message.tensorType
        name = tensor.DESCRIPTOR.fields_by_name["dataType"].enum_type
        name = name.values_by_number[tensor.dataType].name
        if name not in DTYPES:
            raise Unproven(f"evaluator has no dtype {name}")
        return Type(
            dtype=DTYPES[name],
            shape=tuple(_size(entry) for entry in tensor.dimensions),
            variadic=any(entry.unknown.variadic for entry in tensor.dimensions),
        )
    return Type(dtype={"listType": "list", "dictionaryType": "dict"}.get(kind, str(kind)))


def _size(dimension: Any) -> int | None:
    known = dimension.WhichOneof("dimension") == "constant"
    return int(dimension.constant.size) if known else None


def _immediate(message: Any, declared: Type) -> Any:
    import numpy as np

    shape = tuple(size or 0 for size in declared.shape)
    kind = message.WhichOneof("value")
    values = getattr(message, kind).values if kind else []
    if kind == "strings":
        return str(values[0]) if not shape else [str(value) for value in values]
    if kind == "bytes":
        return unpacked(values, declared.dtype, prod(shape)).reshape(shape)
    dtype = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}.get(declared.dtype)
    return np.array(values, dtype=dtype or declared.dtype).reshape(shape)
