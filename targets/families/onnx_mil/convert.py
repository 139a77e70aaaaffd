"""An ONNX tree to the package of a ML Program."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.families import onnx as onnx_family
from crosscast.targets.families.coreml_names import identifiers
from crosscast.targets.families.onnx_mil.graph import Walk
from crosscast.targets.families.onnx_mil.node import MAX_RANK, REMEDY, Wide
from crosscast.targets.families.onnx_mil.planes import from_planes

if TYPE_CHECKING:
    from onnx import ModelProto

LOWEST = 18
"""The opset whose operators the table says; older models are brought to it, and those of later
ones are told apart by their attributes.
"""

WIDE = ("float16", "float32", "float64", "bfloat16")


def converted(
    tree: Path, signature: Signature, *, inputs: Sequence[Any], minimum: str, **settings: Any
) -> Any:
    """The package of the tree's ONNX model: floats are fp32 at its ends, integers and booleans
    int32, its names the `identifiers` of the model's.

    inputs: coremltools' types of the inputs of `signature`, under the model's names, whose sizes,
    fixed, in a range or enumerated, count rather than those in the file; an image's are those of
    its planes, where the model takes pixels. minimum: the oldest system that runs it, which the
    settings name too. settings: further arguments of coremltools.convert.

    Raises StageError where an operator, or one of its attributes, has no form in MIL.
    """
    import coremltools

    images = [one.name for one in inputs if isinstance(one, coremltools.ImageType)]
    model = prepared(tree, images=images)
    outputs = [output.name for output in model.graph.output]
    names = identifiers([*(tensor.name for tensor in signature.inputs), *outputs])
    for one in inputs:
        one.name = names[one.name]
    program = program_of(model, names, inputs=inputs, minimum=minimum)
    try:
        return coremltools.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            inputs=list(inputs),
            skip_model_load=True,
            **settings,
        )
    except Exception as error:
        said = " ".join(str(error).split())[:400]
        raise StageError(
            f"Core ML from ONNX: {type(error).__name__}: {said}", fix=REMEDY
        ) from error


def prepared(tree: Path, *, images: Collection[str] = ()) -> ModelProto:
    """The model of the tree at an opset that the table is written for, with inferred types.

    images: inputs of pixels, which are to be planes.
    """
    from crosscast.targets.families.onnx_upgrade import upgraded

    model = onnx_family.load(tree)
    standard = any(entry.domain in ("", "ai.onnx") for entry in model.opset_import)
    if standard and onnx_family.opset(model) < LOWEST:
        model = upgraded(model, LOWEST)
    model = inlined(model)
    for name in images:
        model = from_planes(model, name)
    return onnx_family.with_types(model)


def inlined(model: ModelProto) -> ModelProto:
    """The model without functions of its own."""
    if not model.functions:
        return model
    import onnx.inliner

    return onnx.inliner.inline_local_functions(model)


def program_of(
    model: ModelProto, names: Mapping[str, str], *, inputs: Sequence[Any], minimum: str
) -> Any:
    """The MIL program of a model from `prepared`.

    names: those of MIL by the model's.
    """
    import coremltools
    from coremltools.converters.mil.mil import Builder, Function, Program, types

    system = int(minimum.removeprefix("iOS"))
    placeholders = {
        one.name: Builder.placeholder(shape=one.shape.symbolic_shape, dtype=one.dtype or types.fp32)
        for one in inputs
    }
    with Function(placeholders, opset_version=getattr(coremltools.target, minimum)) as function:
        given = {name: function.inputs.get(names.get(name)) for name in names}
        values = _fed(model, given, Builder)
        results = Walk(model, mb=Builder, system=system).graph(model.graph, values)
        outputs = [names[output.name] for output in model.graph.output]
        function.set_outputs(
            [_output(Builder, name, value) for name, value in zip(outputs, results, strict=True)]
        )
    program = Program()
    program.add_function("main", function)
    return program


def _fed(model: ModelProto, given: Mapping[str, Any], mb: Any) -> dict[str, Any]:
    """The inputs as the graph takes them: booleans come as integers."""
    inputs, _ = onnx_family.interface(model)
    values = {}
    for tensor in inputs:
        value = given.get(tensor.name)
        if value is None:
            raise StageError(f"the ONNX model has an input '{tensor.name}', which is not declared")
        if 0 in value.shape:
            raise StageError(f"input '{tensor.name}' has no elements, which Core ML cannot take")
        values[tensor.name] = mb.not_equal(x=value, y=0) if tensor.dtype == "bool" else value
    return values


def _output(mb: Any, name: str, value: Any) -> Any:
    """A value as Core ML gives it: fp32 or int32, of at least one dimension."""
    from coremltools.converters.mil.mil import types

    if isinstance(value, Wide):
        raise StageError(
            f"Core ML from ONNX: output '{name}' has rank {len(value.sizes)}; Core ML takes "
            f"{MAX_RANK} dimensions at most",
            fix="reshape it inside the model to fewer dimensions, or remove this target",
        )
    if not hasattr(value, "op"):
        raise StageError(
            f"Core ML from ONNX: output '{name}' is the same whatever the inputs are",
            fix="remove the output from the model, or remove this target",
        )
    if value.dtype == types.bool:
        return mb.cast(x=value, dtype="int32", name=name)
    return mb.identity(x=value, name=name)


def input_tensors(signature: Signature) -> Signature:
    """The signature with booleans and small integers as int32, which Core ML takes."""
    small = ("bool", "int8", "uint8", "int16", "uint16")
    return Signature(
        inputs=tuple(
            Tensor(name=one.name, shape=one.shape, dtype="int32") if one.dtype in small else one
            for one in signature.inputs
        ),
        outputs=signature.outputs,
        dims=signature.dims,
        steps=signature.steps,
    )
