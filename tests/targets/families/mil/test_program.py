"""Constants and types of the protobuf, as plain data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.targets.families import coreml
from crosscast.targets.families.mil.program import Reader, Type

pytest.importorskip("coremltools.proto")

KINDS = {"BOOL": 1, "STRING": 2, "FLOAT16": 10, "FLOAT32": 11, "INT8": 21, "INT32": 23, "UINT4": 35}


def value(kind: str, *shape: int) -> Any:
    operation = coreml._messages().Model().mlProgram.functions["f"].block_specializations["b"]
    made = operation.operations.add().attributes["val"]
    tensor = made.type.tensorType
    tensor.dataType, tensor.rank = KINDS[kind], len(shape)
    for size in shape:
        tensor.dimensions.add().constant.size = size
    return made


def test_numbers_lie_in_fields_of_their_own() -> None:
    made = value("FLOAT32", 2)
    made.immediateValue.tensor.floats.values.extend([1.5, 2.0])
    read = Reader().constant(made)
    assert read.type == Type(dtype="fp32", shape=(2,))
    assert (read.value.dtype, read.value.tolist()) == (np.float32, [1.5, 2.0])
    made = value("BOOL", 2)
    made.immediateValue.tensor.bools.values.extend([True, False])
    assert Reader().constant(made).value.tolist() == [True, False]
    made = value("INT32")
    made.immediateValue.tensor.ints.values.append(-3)
    assert Reader().constant(made).value.shape == ()


@pytest.mark.parametrize(
    ("kind", "content", "wanted"),
    [
        ("FLOAT16", np.array([1.5, -2], np.float16).tobytes(), [1.5, -2.0]),
        ("INT8", bytes([255, 1]), [-1, 1]),
        ("UINT4", bytes([0x1F]), [15, 1]),
    ],
)
def test_narrow_numbers_lie_in_bytes(kind: str, content: bytes, wanted: list[Any]) -> None:
    made = value(kind, 2)
    made.immediateValue.tensor.bytes.values = content
    assert Reader().constant(made).value.tolist() == wanted


def test_text_and_lists() -> None:
    made = value("STRING")
    made.immediateValue.tensor.strings.values.append("valid")
    assert Reader().constant(made).value == "valid"
    listed = value("STRING")
    listed.type.listType.type.CopyFrom(made.type)
    listed.immediateValue.list.values.add().CopyFrom(made)
    assert Reader().constant(listed).value == ["valid"]


def test_dimensions_may_be_unknown() -> None:
    made = value("FLOAT32", 2)
    made.type.tensorType.dimensions.add().unknown.variadic = False
    made.immediateValue.tensor.floats.values.extend([])
    function = coreml._messages().Model().mlProgram.functions["main"]
    function.opset = "CoreML7"
    function.inputs.add(name="x").type.CopyFrom(made.type)
    function.block_specializations["CoreML7"].outputs.append("x")
    read = Reader().function(function)
    assert (read.opset, read.inputs[0].type.shape) == (17, (2, None))
    assert not read.inputs[0].type.variadic


def test_what_is_not_known_is_unproven() -> None:
    made = value("FLOAT32")
    made.type.tensorType.dataType = 40
    with pytest.raises(Unproven, match="evaluator has no dtype FLOAT8E4M3FN"):
        Reader().constant(made)
    made = value("FLOAT32")
    made.immediateValue.dictionary.SetInParent()
    with pytest.raises(Unproven, match="evaluator has no constants of kind 'dictionary'"):
        Reader().constant(made)


def test_a_function_without_its_opset_is_an_error() -> None:
    function = coreml._messages().Model().mlProgram.functions["main"]
    function.opset = "CoreML6"
    with pytest.raises(StageError, match="has no block for its opset CoreML6"):
        Reader().function(function)
