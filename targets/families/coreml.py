"""Core ML packages: what they declare, what they hold, and running them: in Core ML on macOS, in
the reference evaluator elsewhere.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind, Options, Precision, Session
from crosscast.targets.families import tensorflow as tensorflow_family
from crosscast.targets.families import torch as torch_family
from crosscast.targets.families.coreml_names import Renamed, own_names

COREML = Toolchain(
    name="coreml",
    # The same warm parent as the exports': it has imported the slow half already.
    preload=torch_family.PRELOAD,
    later=("coremltools",),
    hidden=("tensorflow", "sklearn", "xgboost", "libsvm"),
    distributions=("coremltools", "torch", "numpy"),
    extra="coreml",
)

COREML_TENSORFLOW = Toolchain(
    name="coreml-tensorflow",
    preload=tensorflow_family.PRELOAD,
    later=("coremltools",),
    hidden=("sklearn", "xgboost", "libsvm"),
    distributions=("coremltools", "tensorflow", "torch", "numpy"),
    extra="coreml,tensorflow",
)
COREML_ONNX = replace(
    COREML,
    name="coreml-onnx",
    distributions=("coremltools", "onnx", "torch", "numpy"),
    extra="coreml,onnx",
)
COMPRESSING = replace(
    COREML,
    name="coreml-compressing",
    hidden=("tensorflow", "xgboost", "libsvm"),
    distributions=("coremltools", "scikit-learn", "torch", "numpy"),
)
CONVERTERS: Mapping[Kind, Toolchain] = {
    "exported_program": COREML,
    "saved_model": COREML_TENSORFLOW,
    "onnx": COREML_ONNX,
}
"""Where a conversion runs, by what it starts from."""

ACCEPTS: tuple[Kind, ...] = ("saved_model", "onnx", "exported_program")
"""ONNX before PyTorch programs: coremltools' front end for these lacks what torch.export writes for
most transformers (where.ScalarOther, new_ones, __and__) and for recurrent layers of any length."""

MODEL = "model.mlpackage"
SPEC = "Data/com.apple.CoreML/model.mlmodel"
DIM_PREFIX = "crosscast.dim."
"""User-defined metadata "crosscast.dim.<input>.<axis>": the name of a dynamic dimension, for which
Core ML itself has no place."""

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

IO_DTYPES = {"FLOAT32": "float32", "FLOAT16": "float16", "DOUBLE": "float64", "INT32": "int32"}
NARROWED: Mapping[str, str] = {
    "float16": "float32",
    "float64": "float32",
    **dict.fromkeys(("bool", "int8", "uint8", "int16", "uint16", "int64"), "int32"),
}
"""What an input or output is for a dtype that Core ML's arrays do not have in a ML Program."""
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


class CoreMLOptions(Options):
    """Options of every conversion to Core ML."""

    minimum: Literal["iOS15", "iOS16", "iOS17", "iOS18"] = Field(
        default="iOS16",
        description="Oldest system that runs the model (iOS16 is macOS 13, iOS17 macOS 14 …); "
        "a later one has more operators.",
    )


class ComputeOptions(CoreMLOptions):
    """Options of those that compute in less than fp32."""

    compute: Literal["float16", "mixed", "float32"] | None = Field(
        default=None,
        description="What the operators compute in: float16, mixed (products and convolutions in "
        "float16, all else in float32) or float32 (the weights are float16). Default: the first "
        "of these whose outputs are near those of the last in a trial.",
    )


class CoreMLSession:
    """A model in Core ML itself, which exists on macOS only."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __init__(self, artifact: Path) -> None:
        import coremltools

        self.inputs, self.outputs = interface(artifact)
        try:
            self._model = coremltools.models.MLModel(str(artifact / MODEL))
        except Exception as error:
            raise StageError(f"Core ML cannot load the model: {error}") from error

    def run(self, inputs: Arrays) -> Arrays:
        """Compute all outputs, by name and in order."""
        import numpy as np

        fed = {
            tensor.name: inputs[tensor.name].astype(tensor.dtype, copy=False)
            for tensor in self.inputs
        }
        try:
            values = self._model.predict(fed)
        except Exception as error:
            raise StageError(f"Core ML cannot run the model: {error}") from error
        return {tensor.name: np.asarray(values[tensor.name]) for tensor in self.outputs}


def open(*, artifact: Path) -> Session:
    """Load the artifact in Core ML; in the reference evaluator where there is no Core ML.

    Raises Unproven where the evaluator lacks what the model has.
    """
    if sys.platform != "darwin":
        return evaluated(artifact=artifact)
    return _named(CoreMLSession(artifact), artifact)


def evaluated(*, artifact: Path, ideal: bool = False) -> Session:
    """Load the artifact in the reference evaluator.

    ideal: float16 is not rounded as it computes.
    """
    from crosscast.targets.families.mil.session import MilSession

    inputs, outputs = interface(artifact)
    root = (artifact / MODEL / SPEC).parent
    spec = _spec(artifact)
    session = MilSession(spec=spec, root=root, inputs=inputs, outputs=outputs, ideal=ideal)
    return _named(session, artifact)


def _named(session: Session, artifact: Path) -> Session:
    """The session under the model's own names, which a ML Program may not be able to have."""
    names = own_names(_spec(artifact).description.metadata.userDefined)
    return Renamed(session, names) if names else session


def precision(*, artifact: Path) -> Precision:
    """Audit the constants of the saved program; names, shapes, and other integers do not count."""
    weights: Counter[str] = Counter()
    for constant, packed in _constants(_spec(artifact)):
        kind = constant.DESCRIPTOR.fields_by_name["dataType"].enum_type
        dtype = kind.values_by_number[constant.dataType].name.lower()
        if dtype in WEIGHT_BITS:
            sizes = [dim.constant.size for dim in constant.dimensions]
            weights[packed or dtype] += -(-prod(sizes) * WEIGHT_BITS[dtype] // 8)
    shares: Counter[Delivered] = Counter()
    for dtype, size in weights.items():
        shares[DELIVERED[dtype]] += size
    delivered = shares.most_common(1)[0][0] if shares else "fp16"
    return Precision(delivered=delivered, weights=dict(sorted(weights.items())))


def interface(artifact: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and outputs that the saved file declares, by its own names. Runs on every host.

    A model with dynamic dimensions declares no shapes of its outputs; they are then those of the
    program, whose unknown dimensions are called "<output>_<axis>".
    """
    spec = _spec(artifact)
    description, shapes = spec.description, _program_shapes(spec)
    names = {
        key.removeprefix(DIM_PREFIX): value
        for key, value in description.metadata.userDefined.items()
        if key.startswith(DIM_PREFIX)
    }
    inputs = tuple(_tensor(feature, names) for feature in description.input)
    declared = (_tensor(feature, names) for feature in description.output)
    outputs = tuple(replace(it, shape=it.shape or shapes.get(it.name, ())) for it in declared)
    return inputs, outputs


def _messages() -> Any:
    """The protobuf messages of coremltools, without the second that its converters take."""
    import importlib.util
    from types import ModuleType

    name = "coremltools"
    if name not in sys.modules:
        found = importlib.util.find_spec(name)
        if found is None:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        shell = sys.modules[name] = ModuleType(name)
        shell.__path__ = list(found.submodule_search_locations or ())
        try:
            return importlib.import_module(f"{name}.proto.Model_pb2")
        finally:
            for loaded in [key for key in sys.modules if key.partition(".")[0] == name]:
                del sys.modules[loaded]  # so that a later import gets the whole of it
    return importlib.import_module(f"{name}.proto.Model_pb2")


def _spec(artifact: Path) -> Any:
    from google.protobuf.message import DecodeError

    spec = _messages().Model()
    try:
        spec.ParseFromString((artifact / MODEL / SPEC).read_bytes())
    except (OSError, DecodeError) as error:
        raise StageError(f"{MODEL} cannot be read as a Core ML package: {error}") from error
    return spec


def _constants(spec: Any) -> Iterator[tuple[Any, str]]:
    """The tensor types of all constants, plain and compressed, and what is packed in their bytes
    where that is something else.
    """
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            yield from _block_constants(block)


def _block_constants(block: Any) -> Iterator[tuple[Any, str]]:
    for operation in block.operations:
        if operation.type.startswith("const"):
            for name, value in operation.attributes.items():
                yield value.type.tensorType, _packed(operation, name)
            for given in operation.inputs.values():
                yield from ((one.value.type.tensorType, "") for one in given.arguments)
        for inner in operation.blocks:
            yield from _block_constants(inner)


def _packed(operation: Any, name: str) -> str:
    """The dtype of indices into a palette, as many of which as fit share a byte."""
    if operation.type != "constexpr_lut_to_dense" or name != "indices":
        return ""
    (colours,) = operation.attributes["lut"].type.tensorType.dimensions
    return f"uint{(colours.constant.size - 1).bit_length()}"


def _program_shapes(spec: Any) -> dict[str, tuple[int | str, ...]]:
    """The shapes of what the operators of the functions give, by name."""
    return {
        port.name: tuple(
            dim.constant.size if dim.HasField("constant") else f"{port.name}_{axis}"
            for axis, dim in enumerate(port.type.tensorType.dimensions)
        )
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for operation in block.operations
        for port in operation.outputs
    }


def _tensor(feature: Any, names: Mapping[str, str]) -> Tensor:
    array = feature.type.multiArrayType
    kind = array.DESCRIPTOR.fields_by_name["dataType"].enum_type
    dtype = IO_DTYPES.get(kind.values_by_number[array.dataType].name)
    if not feature.type.HasField("multiArrayType") or dtype is None:
        raise StageError(f"'{feature.name}' of the Core ML model is not a tensor of numbers")
    ranges = array.shapeRange.sizeRanges
    flexible = {axis for axis, size in enumerate(ranges) if size.lowerBound != size.upperBound}
    columns = zip(*(each.shape for each in array.enumeratedShapes.shapes), strict=True)
    flexible |= {axis for axis, sizes in enumerate(columns) if len(set(sizes)) > 1}
    shape = tuple(
        names.get(f"{feature.name}.{axis}", f"{feature.name}_{axis}") if axis in flexible else dim
        for axis, dim in enumerate(array.shape)
    )
    return Tensor(name=feature.name, shape=shape, dtype=dtype)
