"""PyTorch programs, SavedModels and ONNX graphs to Core ML ML Programs."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.base import KEPT, NOTES, PRECISION, SAID, read_notes
from crosscast.targets.families import coreml_saved_model
from crosscast.targets.families.coreml import MODEL, SPEC, ComputeOptions, CoreMLOptions
from crosscast.targets.families.coreml_compute import Choice, Compute, Trial
from crosscast.targets.families.coreml_describe import About, batch_of, describe, single
from crosscast.targets.families.coreml_features import UNITS
from crosscast.targets.families.coreml_mend import (
    compute_precision,
    fill_pool_defaults,
    layer_of,
    mend_registry,
    pass_pipeline,
    unsupported,
)
from crosscast.targets.families.tensorflow import SAVED_MODEL

PROGRAM = "model.pt2"
TRACED = "model.ts"
GRAPH = "model.onnx"
SIGNATURE = "signature.json"
DATE = "com.github.apple.coremltools.conversion_date"
INPUT_DTYPES = {
    "float16": "float32",
    "float32": "float32",
    "float64": "float32",
    "int32": "int32",
    "int64": "int32",
}
MOST = 128
"""Shapes of an input that Core ML can enumerate."""

REMEDY = (
    "remove `via: exported_program`, since there are more operators by way of ONNX; otherwise "
    "replace it in the model with operators that Core ML has, or remove this target"
)


def convert(
    *,
    model: Path,
    options: Mapping[str, Any],
    out: Path,
    samples: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write `model.mlpackage` from a PyTorch program, a SavedModel or an ONNX graph; equal input
    gives equal bytes.

    Weights are fp16, and what computes in fp32 is so little as the outputs allow (see
    `coreml_compute`), which the notes say; floating-point inputs and outputs are fp32, integers
    int32. Names and dynamic dimensions are those of the signature beside the program.
    samples: real ones to try that on, in the model's layout. about: what the config says of the
    model, for the package's description. An input whose preprocessing is in the model is an image,
    and a model with labels is a classifier: both take one at a time.
    """
    _lower(model, options, samples, out, about, halved=True)


def to_quantize(
    *,
    model: Path,
    options: Mapping[str, Any],
    out: Path,
    samples: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """The same, but weights of what computes in fp32 are fp32, for a quantizer to take."""
    _lower(model, options, samples, out, about, halved=False)


def convert_whole(
    *,
    model: Path,
    options: Mapping[str, Any],
    out: Path,
    about: Mapping[str, Any] | None = None,
) -> None:
    """The same in fp32 altogether."""
    chosen = CoreMLOptions.model_validate(options)
    asked = Conversion.of(model, chosen, halved=False, about=about)
    asked.write(Choice(compute="float32"), out)


class Conversion(NamedTuple):
    """A model on its way to a package.

    signature: of the model. batch: the dimension of it of which the package takes one. halved:
    whether weights that are fp32 are stored in fp16.
    """

    model: Path
    signature: Signature
    chosen: CoreMLOptions
    halved: bool
    about: About = About()  # frozen
    batch: str = ""

    @classmethod
    def of(
        cls, model: Path, chosen: CoreMLOptions, *, halved: bool, about: Mapping[str, Any] | None
    ) -> Conversion:
        """Of a tree."""
        signature = Signature.from_json(json.loads((model / SIGNATURE).read_text(encoding="utf-8")))
        told = About.of(about)
        batch = batch_of(signature, told)
        return cls(model, signature, chosen, halved, told, batch)

    def write(self, choice: Choice, out: Path) -> None:
        """Write the package that computes in such a precision."""
        import coremltools

        settings = {
            "minimum_deployment_target": getattr(coremltools.target, self.chosen.minimum),
            "compute_precision": compute_precision(choice),
            "pass_pipeline": pass_pipeline(choice.compute, halved=self.halved),
        }
        model, signature = self.model, single(self.signature, self.batch)
        if (model / SAVED_MODEL).is_dir():
            inputs = _inputs(signature)
            package = coreml_saved_model.converted(
                model, signature.outputs, inputs=inputs, **settings
            )
        elif (model / GRAPH).is_file():
            images = self.about.images
            package = _from_onnx(model, signature, self.chosen.minimum, settings, images=images)
        else:
            package = _from_torch(model, signature, settings)
        _refuse_nan(package)
        package.save(str(out / MODEL))
        normalise(out / MODEL, self._describe)

    def _describe(self, spec: Any) -> None:
        describe(spec, self.signature, self.about)
        if self.chosen.compute_units != "all":
            spec.description.metadata.userDefined[UNITS] = self.chosen.compute_units


def _lower(
    model: Path,
    options: Mapping[str, Any],
    samples: Path | None,
    out: Path,
    about: Mapping[str, Any] | None,
    *,
    halved: bool,
) -> None:
    """Write the package that computes as asked, or in as much fp16 as its outputs allow; what is to
    be said of that goes to the notes.
    """
    chosen = ComputeOptions.model_validate(options)
    asked = Conversion.of(model, chosen, halved=halved, about=about)
    out.mkdir(parents=True, exist_ok=True)
    if chosen.on_mismatch == "fail" or chosen.compute == "float32":
        choice = Choice(compute=chosen.compute)
        asked.write(choice, out)
    else:
        choice = _tried(asked, chosen.compute, samples, out)
    notes = {
        **{key: held for key, held in read_notes(model).items() if key == PRECISION},
        **({SAID: choice.said} if choice.said else {}),
        **({KEPT: {"operators": dict(choice.kept)}} if choice.kept else {}),
    }
    if notes:
        (out / NOTES).write_text(json.dumps(notes) + "\n", encoding="utf-8")


def _tried(asked: Conversion, first: Compute, samples: Path | None, out: Path) -> Choice:
    """Write the package that computes in as much fp16 as its outputs allow, and tell what that is.
    first: the most fp16 that is tried.
    """
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        wide = Path(scratch)
        asked.write(Choice(compute="float32"), wide)
        trial = Trial.of(wide, asked.signature, samples)
        for choice in trial.choices(first, wide):
            if choice.compute == "float32":
                break
            asked.write(choice, out)
            if trial.passes(out):
                return choice
            shutil.rmtree(out / MODEL)
        shutil.move(wide / MODEL, out / MODEL)
    return Choice(compute="float32")


def _from_onnx(
    model: Path,
    signature: Signature,
    minimum: str,
    settings: Mapping[str, Any],
    *,
    images: Collection[str],
) -> Any:
    """The package of an ONNX graph. images: the inputs of pixels that become images."""
    from crosscast.targets.families.onnx_mil import convert as onnx_mil

    inputs = _inputs(onnx_mil.input_tensors(signature), images)
    return onnx_mil.converted(model, signature, inputs=inputs, minimum=minimum, **settings)


def _from_torch(model: Path, signature: Signature, settings: Mapping[str, Any]) -> Any:
    """The package of a PyTorch program."""
    import coremltools
    import torch

    mend_registry()
    program: Any
    if (model / PROGRAM).exists():
        program = _program(model / PROGRAM)
        inputs = _inputs(_ordered(program, signature))
        outputs = _outputs(signature, _output_dtypes(program))
    else:
        program = torch.jit.load(model / TRACED)
        inputs = _inputs(signature)
        outputs = _outputs(signature, [tensor.dtype for tensor in signature.outputs])
    with _named_failures(program):
        return coremltools.convert(
            program,
            source="pytorch",
            convert_to="mlprogram",
            inputs=inputs,
            outputs=outputs,
            skip_model_load=True,
            **settings,
        )


def _program(path: Path) -> Any:
    """The exported program, decomposed, with what coremltools gets wrong put right."""
    import torch

    program = torch.export.load(path).run_decompositions({})
    fill_pool_defaults(program)
    missing = unsupported(program)
    if missing:
        listed = ", ".join(f"{operator} (layer {layer})" for operator, layer in missing)
        raise StageError(f"Core ML has no equivalent of {listed}", fix=REMEDY)
    return program


def _ordered(program: Any, signature: Signature) -> Signature:
    """The signature with its inputs in the program's order, its dynamic dimensions checked."""
    values = _input_values(program)
    by_name = {tensor.name: tensor for tensor in signature.inputs}
    if len(values) != len(by_name):
        raise StageError(
            f"Core ML: the program takes {len(values)} inputs, the config declares {len(by_name)}"
        )
    # Placeholders have the names of forward's parameters, which the config may have renamed.
    same = set(values) == set(by_name)
    tensors = tuple(by_name[name] for name in values) if same else signature.inputs
    for tensor, value in zip(tensors, values.values(), strict=True):
        _check_dims(tensor, value, signature, program.range_constraints)
    return replace(signature, inputs=tensors)


def _input_values(program: Any) -> dict[str, Any]:
    wanted = set(program.graph_signature.user_inputs)
    return {node.name: node.meta["val"] for node in program.graph.nodes if node.name in wanted}


def _check_dims(
    tensor: Tensor, value: Any, signature: Signature, ranges: Mapping[Any, Any]
) -> None:
    """Raise StageError where the program has fixed or narrowed a dimension declared dynamic."""
    for axis, dim in enumerate(tensor.shape):
        if isinstance(dim, int):
            continue
        low, high = signature.dims[dim]
        size, found = value.shape[axis], ""
        if isinstance(size, int):
            found = f"fixed to {size}"
        else:
            bounds = ranges.get(size.node.expr)
            # torch.export does not tell 0 and 1 from 2 in its lower bounds.
            if bounds is not None and (bounds.lower > max(low, 2) or bounds.upper < high):
                found = f"limited to {bounds.lower} to {bounds.upper}"
        if found:
            raise StageError(
                f"Core ML: dimension '{dim}' of input '{tensor.name}' was {found} by the "
                f"export, though {low} to {high} is declared",
                fix=f"declare '{dim}' as the model supports it, or avoid code that depends on it",
            )


def _inputs(signature: Signature, images: Collection[str] = ()) -> list[Any]:
    import coremltools
    import numpy as np

    dims = {
        name: coremltools.RangeDim(lower_bound=low, upper_bound=high, default=low)
        for name, (low, high) in signature.dims.items()
    }
    enumerated = _enumerated(signature)
    types = []
    for tensor in signature.inputs:
        if tensor.dtype not in INPUT_DTYPES:
            raise StageError(
                f"Core ML: input '{tensor.name}' is {tensor.dtype}, which Core ML cannot take",
                fix=f"cast it in the model from one of {', '.join(INPUT_DTYPES)}",
            )
        if not tensor.shape:
            raise StageError(
                f"Core ML: input '{tensor.name}' is a scalar; Core ML takes ranks 1 to 5",
                fix=f"give it a value for good in the source, `freeze: {{{tensor.name}: …}}`, or "
                "make it a vector of one in the model",
            )
        if len(tensor.shape) > 5:
            raise StageError(
                f"Core ML: input '{tensor.name}' has rank {len(tensor.shape)}; "
                "Core ML takes 1 to 5",
                fix="reshape it inside the model",
            )
        ranges = tuple(dims[dim] if isinstance(dim, str) else dim for dim in tensor.shape)
        shape = enumerated.get(tensor.name, ranges)
        types.append(
            _image(tensor, shape)
            if tensor.name in images
            else coremltools.TensorType(
                name=tensor.name, shape=shape, dtype=getattr(np, INPUT_DTYPES[tensor.dtype])
            )
        )
    return types


def _image(tensor: Tensor, shape: Any) -> Any:
    """The type of an image of (1, height, width, channels)."""
    import coremltools

    color = (
        coremltools.colorlayout.RGB if tensor.shape[3] == 3 else coremltools.colorlayout.GRAYSCALE
    )

    def planes(sizes: Sequence[Any]) -> tuple[Any, ...]:
        return sizes[0], sizes[3], sizes[1], sizes[2]

    if isinstance(shape, coremltools.EnumeratedShapes):
        shape = coremltools.EnumeratedShapes([planes(one.shape) for one in shape.shapes])
    else:
        shape = planes(shape)
    return coremltools.ImageType(
        name=tensor.name, shape=shape, color_layout=color, channel_first=True
    )


def _enumerated(signature: Signature) -> dict[str, Any]:
    """The shapes of an input whose sizes go in steps, by its name.

    Core ML takes them one by one, MOST of them and, before iOS 18, for one input alone; devices
    run such models quicker than those of any size between two.
    """
    import coremltools

    flexible = [it for it in signature.inputs if not all(isinstance(dim, int) for dim in it.shape)]
    steps = {name for name, step in signature.steps.items() if step > 1}
    if len(flexible) != 1 or steps.isdisjoint(flexible[0].shape):
        return {}
    sizes = [[dim] if isinstance(dim, int) else _sizes(signature, dim) for dim in flexible[0].shape]
    if prod(map(len, sizes)) > MOST:
        return {}
    return {flexible[0].name: coremltools.EnumeratedShapes(list(product(*sizes)))}


def _sizes(signature: Signature, dim: str) -> list[int]:
    low, high = signature.dims[dim]
    return list(range(low, high + 1, signature.steps.get(dim, 1)))


def _output_dtypes(program: Any) -> list[str]:
    wanted = program.graph_signature.user_outputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    return [str(getattr(values.get(name), "dtype", "")).removeprefix("torch.") for name in wanted]


def _outputs(signature: Signature, dtypes: list[str]) -> list[Any] | None:
    """Types of the outputs: named as declared, fp32 where they are of floating point."""
    import coremltools
    import numpy as np

    names: list[str | None] = [tensor.name for tensor in signature.outputs]
    names = names or [None] * len(dtypes)
    if len(names) != len(dtypes):
        raise StageError(
            f"Core ML: the program has {len(dtypes)} outputs, {len(names)} are declared"
        )
    return [
        coremltools.TensorType(name=name, dtype=np.float32 if "float" in dtype else None)
        for name, dtype in zip(names, dtypes, strict=True)
    ] or None


class _LastError(logging.Handler):
    """Keeps the line in which coremltools names the operator that it failed at."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.line = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.line = record.getMessage().strip()


@contextmanager
def _named_failures(program: Any) -> Iterator[None]:
    """Turn whatever coremltools raises into a StageError that names operator and layer."""
    last = _LastError()
    logger = logging.getLogger("coremltools")
    logger.addHandler(last)
    try:
        yield
    except Exception as error:
        where = layer_of(program, last.line)
        detail = " ".join(str(error).split()) or type(error).__name__
        raise StageError(
            f"Core ML: cannot be converted{where}: {type(error).__name__}: {detail}", fix=REMEDY
        ) from error
    finally:
        logger.removeHandler(last)


def _refuse_nan(package: Any) -> None:
    """Raise StageError where a constant holds NaN: a conversion went wrong without a word."""
    import numpy as np

    for function in package._mil_program.functions.values():
        for operation in _operations(function):
            value = operation.outputs[0].val if operation.op_type == "const" else None
            # Scalars are numpy's as well; x != x for NaN only.
            if getattr(value, "dtype", np.dtype(bool)).kind == "f" and np.any(value != value):
                raise StageError(
                    f"Core ML: the converted model has NaN in '{operation.name}'",
                    fix="check the weights for NaN, and the model for inf - inf",
                )


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)


def normalise(package: Path, change: Callable[[Any], None]) -> None:
    """Take out of a package what differs from run to run, after another change of its model."""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((package / SPEC).read_bytes())
    spec.description.metadata.userDefined.pop(DATE, None)
    change(spec)
    (package / SPEC).write_bytes(spec.SerializeToString(deterministic=True))
    for entry in package.iterdir():
        if entry.name not in ("Data", "Manifest.json"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    _normalise_manifest(package / "Manifest.json")


def _normalise_manifest(path: Path) -> None:
    """Replace the random identifiers of a package's items by ones made from their paths."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    identifiers = {
        key: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for key, entry in entries.items()
    }
    manifest["itemInfoEntries"] = {identifiers[key]: entry for key, entry in entries.items()}
    manifest["rootModelIdentifier"] = identifiers[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
