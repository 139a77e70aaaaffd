"""Packages as sessions: names, shapes, images, and what is refused. The model is made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.targets.families import coreml

pytest.importorskip("torch")
pytest.importorskip("coremltools.proto")


def model(describe: Callable[[Any], None], shape: tuple[int, ...], kind: str = "relu") -> Any:
    """A model of one operator, whose input is described by `describe`."""
    spec = coreml._messages().Model()
    given = spec.description.input.add(name="x")
    describe(given.type)
    answer = spec.description.output.add(name="y")
    answer.type.multiArrayType.dataType = answer.type.multiArrayType.FLOAT32
    function = spec.mlProgram.functions["main"]
    function.opset = "CoreML6"
    tensor = function.inputs.add(name="x").type.tensorType
    tensor.dataType, tensor.rank = 11, len(shape)
    for size in shape:
        dimension = tensor.dimensions.add()
        if size < 0:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size
    block = function.block_specializations["CoreML6"]
    block.outputs.append("y")
    step = block.operations.add(type=kind)
    step.inputs["x"].arguments.add(name="x")
    step.outputs.add(name="y").type.tensorType.CopyFrom(tensor)
    return spec


def saved(spec: Any, root: Path) -> Path:
    path = root / coreml.MODEL / coreml.SPEC
    path.parent.mkdir(parents=True)
    path.write_bytes(spec.SerializeToString())
    return root


def array(*shape: int, **flexible: Any) -> Callable[[Any], None]:
    def describe(kind: Any) -> None:
        declared = kind.multiArrayType
        declared.dataType = declared.FLOAT32
        declared.shape.extend(shape)
        for low, high in flexible.get("ranges", ()):
            declared.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
        for sizes in flexible.get("sizes", ()):
            declared.enumeratedShapes.shapes.add(shape=sizes)

    return describe


def session(spec: Any, root: Path = Path()) -> Any:
    from crosscast.targets.families.mil.session import MilSession

    return MilSession(spec=spec, root=root)


def test_a_package_is_run_as_it_lies_on_disk(tmp_path: Path) -> None:
    artifact = saved(model(array(2), (2,)), tmp_path)
    opened = coreml.evaluated(artifact=artifact)
    assert [(tensor.name, tensor.shape) for tensor in opened.inputs] == [("x", (2,))]
    found = opened.run({"x": np.array([-1.0, 2.0])})
    assert found["y"].dtype == np.float32
    assert found["y"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("describe", "takes", "refuses"),
    [
        (array(1, 3), [(1, 3)], [(2, 3), (3,)]),
        (array(1, 3, ranges=[(1, 4), (3, 3)]), [(1, 3), (4, 3)], [(5, 3), (1, 4)]),
        (array(1, 3, ranges=[(1, -1), (3, 3)]), [(999, 3)], [(0, 3)]),
        (array(1, 3, sizes=[(1, 3), (2, 6)]), [(1, 3), (2, 6)], [(2, 3), (1, 6)]),
    ],
)
def test_shapes_outside_of_those_declared_are_errors(
    describe: Callable[[Any], None], takes: list[Any], refuses: list[Any]
) -> None:
    opened = session(model(describe, (-1, -1)))
    for shape in takes:
        opened.predict({"x": np.zeros(shape)})
    for shape in refuses:
        with pytest.raises(StageError, match="input 'x' does not take the shape"):
            opened.predict({"x": np.zeros(shape)})


@pytest.mark.parametrize(
    ("space", "channels", "order"),
    [("RGB", 3, [0, 1, 2]), ("BGR", 3, [2, 1, 0]), ("GRAYSCALE", 1, [0])],
)
def test_images_are_planes_in_the_declared_order(
    space: str, channels: int, order: list[int]
) -> None:
    from crosscast.targets.families.mil.session import fitted

    def describe(kind: Any) -> None:
        kind.imageType.width, kind.imageType.height = 5, 4
        kind.imageType.colorSpace = kind.imageType.ColorSpace.Value(space)

    feature = model(describe, (1, channels, 4, 5)).description.input[0]
    image = np.arange(20 * channels, dtype=np.uint8).reshape(4, 5, channels)
    found = fitted(image[None], feature)
    np.testing.assert_array_equal(found[0], image.transpose(2, 0, 1)[order])
    np.testing.assert_array_equal(fitted(image, feature), found)
    with pytest.raises(StageError, match="input 'x' does not take an image of"):
        fitted(image[:3], feature)


def test_what_is_no_ml_program_is_unproven() -> None:
    spec = coreml._messages().Model()
    spec.neuralNetwork.SetInParent()
    with pytest.raises(Unproven, match="evaluator has no models of kind neuralNetwork"):
        session(spec)


def test_an_opset_that_is_not_known_is_unproven() -> None:
    spec = model(array(2), (2,))
    spec.mlProgram.functions["main"].opset = "CoreML99"
    with pytest.raises(Unproven, match="evaluator has no opset 'CoreML99'"):
        session(spec)


def test_an_operator_that_is_not_known_is_unproven(tmp_path: Path) -> None:
    with pytest.raises(Unproven, match="evaluator has no fft"):
        coreml.evaluated(artifact=saved(model(array(2), (2,), "fft"), tmp_path))
