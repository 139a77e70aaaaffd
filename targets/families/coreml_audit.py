"""What the saved program of a Core ML package is kept in, what its operators compute in, and the
parameters of its quantization, checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.parity.gains import Weight
from crosscast.targets.base import Computing, Delivered, Precision
from crosscast.targets.families import finite
from crosscast.targets.families.coreml import MODEL, SPEC, spec_of
from crosscast.targets.families.parameters import Parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHT_BITS = {
    "float16": 16,
    "float32": 32,
    "float64": 64,
    "int8": 8,
    "uint8": 8,
    "uint6": 6,
    "int4": 4,
    "uint4": 4,
}
"""Of the dtypes that weights have; their names are MIL's in small letters."""

DELIVERED: Mapping[str, Delivered] = {
    "float16": "fp16",
    "float32": "fp32",
    "float64": "fp32",
    "int8": "int8",
    "uint8": "int8",
    "uint6": "int8",
    "int4": "int4",
    "uint4": "int4",
}

COMPUTING = frozenset(
    (
        "conv", "conv_transpose", "conv_quantized", "linear", "matmul", "einsum",
        "lstm", "gru", "rnn", "scaled_dot_product_attention",
    )
)  # fmt: skip
"""Operators that sum products."""

CALCULATING = frozenset(
    (
        "add", "sub", "mul", "real_div", "prelu", "gather", "gather_along_axis",
        "batch_norm", "instance_norm", "layer_norm",
    )
)  # fmt: skip
"""Operators that make another number of each that they read, or give it as it is; beside those that
sum products."""

FLOATS = ("float16", "float32", "float64")

KEPT = ("cast", "transpose", "reshape", "squeeze", "expand_dims", "identity")
"""What weights go through on their way to an operator."""

LEVELS: Mapping[str, tuple[str, str]] = {
    "constexpr_affine_dequantize": ("quantized_data", "zero_point"),
    "constexpr_blockwise_shift_scale": ("data", "offset"),
    "quantize": ("input", "zero_point"),
    "dequantize": ("input", "zero_point"),
}
"""Operators that have a scale, and what they call the levels and the zero point."""


def precision(*, artifact: Path) -> Precision:
    """Audit the saved program; names, shapes, and other integers than weights do not count."""
    audit = Audited(artifact)
    weights: Counter[str] = Counter()
    for operation in audit.operations:
        if operation.type.startswith("const"):
            for dtype, size in _sizes(operation):
                weights[dtype] += size
    shares: Counter[Delivered] = Counter()
    for dtype, size in weights.items():
        shares[DELIVERED[dtype]] += size
    return Precision(
        delivered=shares.most_common(1)[0][0] if shares else "fp16",
        weights=dict(sorted(weights.items())),
        operators=tuple(audit.computing()),
        problems=tuple(dict.fromkeys(audit.problems())),
    )


def weights(*, artifact: Path) -> Iterator[Weight]:
    """The real numbers that the program's constants stand for, but for palettes."""
    return Audited(artifact).weights()


class Audited:
    """The operations of a package's functions, nested ones included."""

    def __init__(self, artifact: Path) -> None:
        from crosscast.targets.families.mil.blobs import Blobs
        from crosscast.targets.families.mil.program import Reader

        self.reader = Reader(Blobs((artifact / MODEL / SPEC).parent))
        self.operations = [
            operation
            for function in spec_of(artifact).mlProgram.functions.values()
            for block in function.block_specializations.values()
            for operation in _operations(block)
        ]
        self.makers = {out.name: each for each in self.operations for out in each.outputs}

    def computing(self) -> Iterator[Computing]:
        """The operators that compute, in the program's order."""
        for operation in self.operations:
            if operation.type in COMPUTING:
                sizes: Counter[Delivered] = Counter()
                for dtype, size in self._weights(operation):
                    sizes[DELIVERED[dtype]] += size
                yield Computing(
                    name=operation.outputs[0].name,
                    operator=operation.type,
                    arithmetic=DELIVERED.get(_dtype(operation.outputs[0].type.tensorType), "fp32"),
                    stored=sizes.most_common(1)[0][0] if sizes else None,
                    size=sizes.total(),
                )

    def weights(self) -> Iterator[Weight]:
        """The real numbers that constants stand for, but for palettes."""
        for operation in self.operations:
            name = operation.outputs[0].name if operation.outputs else operation.type
            if operation.type == "const":
                yield from (Weight(name, values) for values in self._floats_of(operation))
            elif operation.type in LEVELS and (found := self._parameters(name, operation)):
                yield from filter(None, [found.weight])

    def problems(self) -> Iterator[str]:
        """What is wrong with scales, zero points and palettes, and with floats that are calculated
        with; one line each.
        """
        import numpy as np

        for operation in self.operations:
            name = operation.outputs[0].name if operation.outputs else operation.type
            if operation.type in LEVELS:
                found = self._parameters(name, operation)
                yield from found.problems() if found else ()
            palette = self.value(operation, "lut")
            if palette is not None and not np.isfinite(palette).all():
                yield f"'{name}' has a palette with values that are not finite"
        yield from self._not_finite()

    def _not_finite(self) -> Iterator[str]:
        for operation in self.operations:
            is_summed = operation.type in COMPUTING
            if is_summed or operation.type in CALCULATING:
                for name, values in self._floats(operation):
                    yield from filter(None, [finite.problem(name, values, is_summed=is_summed)])

    def _floats(self, operation: Any) -> Iterator[tuple[str, Any]]:
        """The names and values of the float constants that an operator reads."""
        for maker in self._constants(operation):
            for values in self._floats_of(maker):
                yield maker.outputs[0].name, values

    def _floats_of(self, maker: Any) -> Iterator[Any]:
        """The values of the floats that a constant's operation holds itself."""
        floats = [it for _, it in _held(maker) if _dtype(it.type.tensorType) in FLOATS]
        yield from (values for values in map(self._read, floats) if values is not None)

    def _parameters(self, name: str, operation: Any) -> Parameters | None:
        levels, point = LEVELS[operation.type]
        scales, held = self.value(operation, "scale"), self.value(operation, levels)
        points, axis = self.value(operation, point), self.value(operation, "axis")
        if scales is None:
            return None
        levels_of = points if held is None else held
        by_channel = held is not None and axis is not None and scales.size > 1
        return Parameters(
            tensor=name,
            scales=scales,
            points=points,
            dtype="int8" if levels_of is None else levels_of.dtype.name,
            channels=held.shape[int(axis)] if by_channel else None,
            levels=held,
            axis=None if axis is None else int(axis),
        )

    def value(self, operation: Any, parameter: str) -> Any:
        """What is given for a parameter, as an array; None where it is computed, left out, or
        cannot be read, which the runtime says.
        """
        message = self.given(operation, parameter)
        return None if message is None else self._read(message)

    def _read(self, message: Any) -> Any:
        try:
            return self.reader.constant(message).value
        except (StageError, Unproven):
            return None

    def given(self, operation: Any, parameter: str) -> Any:
        """The constant that is given for a parameter; None where it is computed, or left out."""
        if parameter in operation.attributes:
            return operation.attributes[parameter]
        if parameter not in operation.inputs:
            return None
        for argument in operation.inputs[parameter].arguments:
            if argument.WhichOneof("binding") == "value":
                return argument.value
            maker = self.makers.get(argument.name)
            if maker is not None and maker.type == "const":
                return maker.attributes["val"]
        return None

    def write(self, operation: Any, parameter: str, values: NDArray[Any]) -> None:
        """Put other numbers in the place of a constant that lies in a file of weights."""
        place = self.given(operation, parameter).blobFileValue
        self.reader.blobs.write(place.fileName, place.offset, values)

    def _weights(self, operation: Any) -> Iterator[tuple[str, int]]:
        """The dtypes and bytes of the constants that an operator reads."""
        for maker in self._constants(operation):
            yield from _sizes(maker)

    def _constants(self, operation: Any) -> Iterator[Any]:
        """The operations that give the constants that an operator reads."""
        for given in operation.inputs.values():
            for argument in given.arguments:
                maker = self.makers.get(argument.name)
                if maker is None:
                    continue
                if maker.type.startswith("const"):
                    yield maker
                if maker.type.startswith("constexpr") or maker.type in KEPT:
                    yield from self._constants(maker)


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)


def _sizes(operation: Any) -> Iterator[tuple[str, int]]:
    """The dtypes and bytes of the weights that a constant's operation holds itself; what is packed
    in the bytes, where that is something else.
    """
    held = [(value.type.tensorType, _packed(operation, name)) for name, value in _held(operation)]
    for constant, packed in held:
        dtype = _dtype(constant)
        if dtype in WEIGHT_BITS:
            sizes = [dim.constant.size for dim in constant.dimensions]
            yield packed or dtype, -(-prod(sizes) * WEIGHT_BITS[dtype] // 8)


def _held(operation: Any) -> Iterator[tuple[str, Any]]:
    yield from operation.attributes.items()
    for name, given in operation.inputs.items():
        yield from ((name, one.value) for one in given.arguments)


def _dtype(constant: Any) -> str:
    kind = constant.DESCRIPTOR.fields_by_name["dataType"].enum_type
    return str(kind.values_by_number[constant.dataType].name.lower())


def _packed(operation: Any, name: str) -> str:
    """The dtype of indices into a palette, as many of which as fit share a byte."""
    if operation.type != "constexpr_lut_to_dense" or name != "indices":
        return ""
    if "lut" not in operation.attributes:
        return ""
    (colours,) = operation.attributes["lut"].type.tensorType.dimensions
    return f"uint{(colours.constant.size - 1).bit_length()}"
