"""A package as a session of the evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.signature import Arrays
from crosscast.targets.families.mil.blobs import Blobs
from crosscast.targets.families.mil.evaluate import Evaluator, Watching
from crosscast.targets.families.mil.program import Function, Reader

MAIN = "main"
ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}
"""Channels of an image's program input, as places in red, green, blue."""


class MilSession:
    """A package's default function, computed by the evaluator. Every call starts from fresh
    states.
    """

    remark = "computed by the reference evaluator of the saved program, not by Apple's runtime"

    def __init__(
        self,
        *,
        spec: Any,
        root: Path,
        ideal: bool = False,
        watch: Watching | None = None,
    ) -> None:
        """spec: the package's model, whose files of weights are below `root`. ideal, watch: as the
        evaluator has them. Raises Unproven where the evaluator lacks something.
        """
        self._features = {feature.name: feature for feature in spec.description.input}
        self._evaluator = Evaluator(function_of(spec, root), ideal=ideal, watch=watch)

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        """All features, by name: arrays, and the class and the scores of a classifier. Raises
        StageError for inputs of other shapes than the package declares.
        """
        fed = {name: fitted(inputs[name], feature) for name, feature in self._features.items()}
        values = self._evaluator.run(fed)
        return {
            name: value.numpy() if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        }


def function_of(spec: Any, root: Path, name: str = "") -> Function:
    """A function of a model, the default one where no name is given, read."""
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise Unproven(f"evaluator has no models of kind {kind}")
    name = name or spec.description.defaultFunctionName or MAIN
    if name not in spec.mlProgram.functions:
        raise StageError(f"the ML Program has no function '{name}'")
    return Reader(Blobs(root)).function(spec.mlProgram.functions[name])


def fitted(array: Any, feature: Any) -> torch.Tensor:
    """What the program's input is given for an array that the declared input takes.

    Images are (1, height, width, channels), or without the first axis, of uint8.
    """
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        return _image(np.asarray(array), feature)
    if kind != "multiArrayType":
        raise Unproven(f"evaluator has no inputs of kind {kind}")
    array = np.asarray(array)
    if not _takes(feature.type.multiArrayType, array.shape):
        raise StageError(f"input '{feature.name}' does not take the shape {array.shape}")
    kinds = feature.type.multiArrayType.DESCRIPTOR.fields_by_name["dataType"].enum_type
    name = kinds.values_by_number[feature.type.multiArrayType.dataType].name
    dtype = {"DOUBLE": "float64"}.get(name, name.lower())
    return torch.from_numpy(np.array(array, dtype))


def _takes(declared: Any, shape: tuple[int, ...]) -> bool:
    """Whether a declared array is one of the shape: flexible by ranges, by a list, or not."""
    flexible = declared.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        return shape in [tuple(entry.shape) for entry in declared.enumeratedShapes.shapes]
    if flexible == "shapeRange":
        ranges = declared.shapeRange.sizeRanges
        return len(ranges) == len(shape) and all(
            bounds.lowerBound <= size and (size <= bounds.upperBound or bounds.upperBound < 0)
            for bounds, size in zip(ranges, shape, strict=True)
        )
    return shape == tuple(declared.shape)


def _image(array: Any, feature: Any) -> torch.Tensor:
    declared = feature.type.imageType
    kinds = declared.DESCRIPTOR.fields_by_name["colorSpace"].enum_type
    space = kinds.values_by_number[declared.colorSpace].name
    pixels = array[None] if array.ndim in (2, 3) and array.shape[0] != 1 else array
    if space in ("GRAYSCALE", "GRAYSCALE_FLOAT16"):
        pixels = pixels.reshape(1, *pixels.shape[1:3], 1)
        order: tuple[int, ...] = (0,)
    elif space in ORDERS:
        order = ORDERS[space]
    else:
        raise Unproven(f"evaluator has no images of {space}")
    if pixels.shape[1:] != (*_image_size(declared, pixels.shape), len(order)):
        raise StageError(f"input '{feature.name}' does not take an image of {array.shape}")
    planes = np.ascontiguousarray(pixels[..., order].transpose(0, 3, 1, 2), np.float32)
    return torch.from_numpy(planes)


def _image_size(declared: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """The size that the image is held to: its own where the declaration is flexible and has it."""
    own = (shape[1], shape[2])
    flexible = declared.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        sizes = [(size.height, size.width) for size in declared.enumeratedSizes.sizes]
        return own if own in sizes else (declared.height, declared.width)
    if flexible == "imageSizeRange":
        bounds = (declared.imageSizeRange.heightRange, declared.imageSizeRange.widthRange)
        fits = all(
            entry.lowerBound <= size and (size <= entry.upperBound or entry.upperBound < 0)
            for entry, size in zip(bounds, own, strict=True)
        )
        return own if fits else (declared.height, declared.width)
    return declared.height, declared.width
