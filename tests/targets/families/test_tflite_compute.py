"""What operators of TFLite files compute in, and bad parameters, on files made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.tflite_compute import computing, problems, weights

TYPES = {name: getattr(schema.TensorType, name.upper()) for name in ("float32", "float16", "int8")}
LEVELS = np.tile(np.int8([[-127, 3], [64, 127]]), (2, 1))


def product(given: str, weights: str, *, unfolded: bool = False) -> Any:
    """x (n, 2) -> a fully connected layer "y" (n, 4), weights behind a DEQUANTIZE or not."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    model.subgraphs = [schema.SubGraphT()]
    editor = files.Editor(model, model.subgraphs[0])
    editor.graph.tensors, editor.graph.operators = [], []
    x = editor.tensor("x", TYPES[given], (-1, 2))
    w = editor.tensor("w", TYPES[weights], (4, 2), LEVELS.astype(weights))
    y = editor.tensor("y", TYPES[given], (-1, 4))
    if given == "int8":
        for place in (x, y):
            editor.graph.tensors[place].quantization = files.quantization([0.1], 0)
    if weights == "int8":
        editor.graph.tensors[w].quantization = files.quantization([0.1, 0.2, 0.3, 0.4], 0)
    if unfolded:
        floats = editor.tensor("wf", TYPES["float32"], (4, 2))
        editor.graph.operators.append(editor.operator("DEQUANTIZE", [w], floats))
        w = floats
    editor.graph.operators.append(editor.operator("FULLY_CONNECTED", [x, w, -1], y))
    return files.parse(files.packed(model))


@pytest.mark.parametrize(
    ("given", "weights", "unfolded", "form", "size"),
    [
        ("float32", "float32", False, "fp32", 32),
        ("float32", "float16", True, "fp16 weights", 16),
        ("float32", "int8", True, "int8 weights", 8),
        ("float32", "int8", False, "int8", 8),  # the hybrid kernel rounds what comes in
        ("int8", "int8", False, "int8", 8),
    ],
)
def test_what_an_operator_reads_decides(
    given: str, weights: str, unfolded: bool, form: str, size: int
) -> None:
    made = product(given, weights, unfolded=unfolded)
    (entry,) = computing(made)
    assert (entry.name, entry.operator) == ("y", "FULLY_CONNECTED")
    assert (entry.form, entry.size) == (form, size)
    assert entry.fell_back("int8") == (weights != "int8")
    assert list(problems(made)) == []


@pytest.mark.parametrize(
    ("tensor", "key", "values", "line"),
    [
        (1, "scale", [0.0, 0.1, 0.1, 0.1], "'w' has the scale 0, which is no step's size"),
        (1, "scale", [np.nan] * 4, "'w' has the scale nan (and 3 more), which is no step's size"),
        (1, "scale", [0.1, 0.2], "'w' has 2 scales for 4 channels"),
        (0, "scale", [-0.1], "'x' has the scale -0.1, which is no step's size"),
        (0, "zeroPoint", [200], "'x' has the zero point 200, out of -128 to 127 of int8"),
    ],
)
def test_bad_parameters_are_said_with_their_tensor(
    tensor: int, key: str, values: list[Any], line: str
) -> None:
    made = product("int8", "int8")
    setattr(made.subgraphs[0].tensors[tensor].quantization, key, values)
    assert list(problems(made)) == [line]


def test_weights_that_rounding_took_whole_are_said() -> None:
    made = product("int8", "int8")
    made.buffers[made.subgraphs[0].tensors[1].buffer].data = np.zeros(8, np.uint8)
    (line,) = problems(made)
    assert line.startswith("'w' is all zero at the scale 0.4, which is larger than any")


@pytest.mark.parametrize("unfolded", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_said(value: float, unfolded: bool) -> None:
    sound = product("float32", "float16" if unfolded else "float32", unfolded=unfolded)
    made = files.parse(bytearray(files.packed(sound)))
    tensor = made.subgraphs[0].tensors[1]
    assert list(problems(made)) == []
    files.data_of(made, tensor).view(files.numpy_name(tensor.type))[5] = value
    (line,) = problems(made)
    assert line.startswith(f"'w' holds {value:g} at (2, 1), which")


def test_constants_stand_for_real_numbers() -> None:
    (stored,) = weights(product("int8", "int8"))
    assert stored.name == "w"
    np.testing.assert_allclose(stored.values, LEVELS * np.float32([[0.1], [0.2], [0.3], [0.4]]))
    (plain,) = weights(product("float32", "float16", unfolded=True))
    assert plain.steps is None
    assert (plain.values == LEVELS).all()
