"""Core ML packages: what they declare, what they hold, and running them: in Core ML on macOS, in
the reference evaluator elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.signature import Arrays, Tensor
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Kind, Options, Session
from crosscast.targets.families import tensorflow as tensorflow_family
from crosscast.targets.families import torch as torch_family
from crosscast.targets.families.coreml_features import (
    BATCH,
    UNITS,
    Beside,
    PackageSession,
    Predict,
    Scores,
    fed,
    image,
)
from crosscast.targets.families.coreml_names import Renamed, own_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosscast.targets.families.mil.evaluate import Watching
    from crosscast.targets.families.mil.losses import Loss
    from crosscast.targets.families.mil.program import Function

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

IO_DTYPES = {"FLOAT32": "float32", "FLOAT16": "float16", "DOUBLE": "float64", "INT32": "int32"}
NARROWED: Mapping[str, str] = {
    "float16": "float32",
    "float64": "float32",
    **dict.fromkeys(("bool", "int8", "uint8", "int16", "uint16", "int64"), "int32"),
}
"""What an input or output is for a dtype that Core ML's arrays do not have in a ML Program."""

MOST_TOLD = 3
"""Operators that people are told of; what comes after them lost its values by them."""


class CoreMLOptions(Options):
    """Options of every conversion to Core ML."""

    compute_units: Literal["all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"] = Field(
        default="all",
        description="Processors of a device that the app lets Core ML choose from, by which it is "
        "proven on a Mac; ne is the Neural Engine.",
    )

    minimum: Literal["iOS15", "iOS16", "iOS17", "iOS18"] = Field(
        default="iOS16",
        description="Oldest system that runs the model (iOS16 is macOS 13, iOS17 macOS 14 …); "
        "a later one has more operators.",
    )


class ComputeOptions(CoreMLOptions):
    """Options of those that compute in less than fp32."""

    compute: Literal["float16", "mixed", "float32"] = Field(
        default="float16",
        description="What the operators compute in: float16, mixed (products and convolutions in "
        "float16, all else in float32) or float32 (the weights are float16).",
    )
    on_mismatch: Literal["keep-float", "fail"] = Field(
        default="keep-float",
        description="What is done where a trial shows outputs that are not near those of float32. "
        "keep-float: the operators whose values float16 does not hold are kept in float32 and, if "
        "that is not enough, the next of `compute` is taken. fail: nothing, which the gate judges.",
    )


def open(*, artifact: Path) -> Session:
    """Load the artifact in Core ML, with the reference evaluator beside it; in the evaluator alone
    where there is no Core ML.

    Raises Unproven where the evaluator is alone and lacks what the model has.
    """
    if sys.platform != "darwin":
        return evaluated(artifact=artifact)
    return Beside(
        _session(spec_of(artifact), core_ml(artifact)), lambda: evaluated(artifact=artifact)
    )


def core_ml(artifact: Path) -> Predict:
    """One prediction of Core ML itself, which exists on macOS only."""
    import coremltools

    spec = spec_of(artifact)
    inputs, _ = _interface(spec)
    units = spec.description.metadata.userDefined.get(UNITS, "all")
    try:
        model = coremltools.models.MLModel(
            str(artifact / MODEL), compute_units=coremltools.ComputeUnit[units.upper()]
        )
    except Exception as error:
        raise StageError(f"Core ML cannot load the model: {error}") from error

    def predict(arrays: Arrays) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = model.predict(
                {tensor.name: fed(arrays[tensor.name], tensor) for tensor in inputs}
            )
        except Exception as error:
            raise StageError(f"Core ML cannot run the model: {error}") from error
        return found

    return predict


def evaluated(*, artifact: Path, ideal: bool = False, watch: Watching | None = None) -> Session:
    """Load the artifact in the reference evaluator.

    ideal: float16 is not rounded as it computes. watch: is told what every operator gives.
    """
    from crosscast.targets.families.mil.session import MilSession

    spec, root = spec_of(artifact), (artifact / MODEL / SPEC).parent
    session = MilSession(spec=spec, root=root, ideal=ideal, watch=watch)
    return _session(spec, session.predict, remark=session.remark)


def answers(session: Session, arrays: Arrays) -> Arrays:
    """A session's outputs for inputs in the dtypes of the source."""
    from crosscast.pipeline.parity.io import given

    return session.run(given(arrays, tensors=session.inputs))


def program(artifact: Path) -> Function:
    """The program of the saved file, with its constants."""
    from crosscast.targets.families.mil.session import function_of

    return function_of(spec_of(artifact), (artifact / MODEL / SPEC).parent)


def overwrite(artifact: Path, constants: Mapping[str, NDArray[Any]]) -> None:
    """Give constants of the saved file other values, by name; dtypes and shapes stay."""
    from crosscast.targets.families.mil.blobs import Blobs

    root = (artifact / MODEL / SPEC).parent
    blobs = Blobs(root)
    for function in spec_of(artifact).mlProgram.functions.values():
        for operation in function.block_specializations[function.opset].operations:
            if operation.type == "const" and operation.outputs[0].name in constants:
                place = operation.attributes["val"].blobFileValue
                blobs.write(place.fileName, place.offset, constants[operation.outputs[0].name])


def losses(
    *, artifact: Path, cases: Iterable[Arrays], declared: Literal["fp16", "fp32"] = "fp16"
) -> list[Loss]:
    """What of the values of the program's operators fp16 does not hold, in its order.

    cases: inputs in the dtypes of the source. declared: the values that are looked at.
    Raises StageError where the evaluator cannot run it on a case, Unproven where it lacks
    something.
    """
    from crosscast.targets.families.mil.losses import Watch

    watch = Watch(declared)
    session = evaluated(artifact=artifact, ideal=True, watch=watch)
    for arrays in cases:
        answers(session, arrays)
    return list(watch.found.values())


def few(told: Sequence[str]) -> list[str]:
    """The first MOST_TOLD, and how many more there are."""
    more = [f"and {len(told) - MOST_TOLD} more"] if told[MOST_TOLD:] else []
    return [*told[:MOST_TOLD], *more]


def explain(*, artifact: Path, inputs: Arrays) -> list[str]:
    """Why outputs may not be near those of the source, in lines: the first operators whose values
    fp16 does not hold, by the reference evaluator.
    """
    try:
        return few([str(loss) for loss in losses(artifact=artifact, cases=[inputs])])
    except (StageError, Unproven):
        return []


def _session(spec: Any, predict: Predict, *, remark: str = "") -> Session:
    """The model under its own names, which a ML Program may not be able to have."""
    metadata = spec.description.metadata.userDefined
    inputs, outputs = _interface(spec)
    session = PackageSession(
        predict,
        inputs=inputs,
        outputs=outputs,
        batch=metadata.get(BATCH, ""),
        scores=Scores.of(spec),
        remark=remark,
    )
    names = own_names(metadata)
    return Renamed(session, names) if names else session


def interface(artifact: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and outputs that the saved file declares, by its own names. Runs on every host.

    Images are uint8, and the scores of a classifier an array. A model with dynamic dimensions
    declares no shapes of its outputs; they are then those of the program, whose unknown dimensions
    are called "<output>_<axis>".
    """
    return _interface(spec_of(artifact))


def _interface(spec: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    description, shapes = spec.description, _program_shapes(spec)
    metadata = description.metadata.userDefined
    names = {
        key.removeprefix(DIM_PREFIX): value
        for key, value in metadata.items()
        if key.startswith(DIM_PREFIX)
    }
    batch, scores = metadata.get(BATCH, ""), Scores.of(spec)
    inputs = [_tensor(feature) for feature in description.input]
    arrays = [it for it in description.output if not scores or it.name not in scores.features]
    outputs = [_tensor(feature) for feature in arrays]
    outputs = [replace(it, shape=it.shape or shapes.get(it.name, ())) for it in outputs]
    if scores:
        outputs.insert(scores.place, scores.tensor())
    return (
        tuple(_with_names(tensor, names, batch) for tensor in inputs),
        tuple(_with_names(tensor, names, batch) for tensor in outputs),
    )


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


def spec_of(artifact: Path) -> Any:
    """The package's description. Raises StageError where it cannot be read."""
    from google.protobuf.message import DecodeError

    spec = _messages().Model()
    try:
        spec.ParseFromString((artifact / MODEL / SPEC).read_bytes())
    except (OSError, DecodeError) as error:
        raise StageError(f"{MODEL} cannot be read as a Core ML package: {error}") from error
    return spec


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


def _tensor(feature: Any) -> Tensor:
    """A feature; dimensions of any size are called "<feature>_<axis>"."""
    if (found := image(feature)) is not None:
        return found
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
        f"{feature.name}_{axis}" if axis in flexible else dim
        for axis, dim in enumerate(array.shape)
    )
    return Tensor(name=feature.name, shape=shape, dtype=dtype)


def _with_names(tensor: Tensor, names: Mapping[str, str], batch: str) -> Tensor:
    """The tensor with the names of its dimensions of any size, and of that of which a prediction
    takes one.
    """
    told = [names.get(f"{tensor.name}.{axis}", "") for axis in range(len(tensor.shape))]
    shape = tuple(
        name if name and (isinstance(dim, str) or name == batch) else dim
        for name, dim in zip(told, tensor.shape, strict=True)
    )
    return replace(tensor, shape=shape)
