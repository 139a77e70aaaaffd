"""Two files for fixed batches become one for any, which LiteRT runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from crosscast.targets.families import tflite_batch, tflite_runtime
from crosscast.targets.families import tflite_file as files
from crosscast.targets.families.tflite_finish import sign

pytestmark = pytest.mark.e2e

FLOAT = files.tensor_type("float32")


def made_for(batch: int, *, constant: Any, reshaped: Sequence[int] | None = None) -> Any:
    """x [batch, 4] + constant, reshaped."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph = schema.SubGraphT()
    model.subgraphs, graph.tensors, graph.operators = [graph], [], []
    editor = files.Editor(model, graph)
    x = editor.tensor("x", FLOAT, [batch, 4])
    added = editor.tensor("added", files.tensor_type(constant.dtype.name), constant.shape, constant)
    total = editor.tensor("total", FLOAT, [batch, 4])
    step = editor.operator("ADD", [x, added], total)
    step.builtinOptionsType, step.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )
    graph.operators.append(step)
    y = total
    if reshaped:
        y = editor.tensor("y", FLOAT, reshaped)
        graph.operators.append(editor.reshape(total, y, reshaped))
    graph.inputs, graph.outputs = [x], [y]
    sign(model, graph)
    return model


def run(model: Any, path: Path, x: Any) -> Any:
    files.write(model, path / "model.tflite")
    (output,) = tflite_runtime.open(artifact=path).run({"x": x}).values()
    return output


def rows(batch: int) -> Any:
    return np.repeat(np.array([[1, 2, 3, 4]], np.float32), batch, 0)


def test_numbers_that_follow_the_batch_become_free_or_are_computed(tmp_path: Path) -> None:
    one, two = (made_for(batch, constant=rows(batch), reshaped=[2 * batch, 2]) for batch in (2, 3))
    assert tflite_batch.for_any_batch(one, two)
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.testing.assert_array_equal(run(one, tmp_path, x), (x + rows(5)).reshape(10, 2))


def test_two_numbers_that_follow_are_arithmetic(tmp_path: Path) -> None:
    one, two = (made_for(batch, constant=rows(1), reshaped=[batch, 1, 4, 1]) for batch in (2, 3))
    target = one.subgraphs[0].operators[1].inputs[1]
    for model, values in ((one, [2, 2, 2, 1]), (two, [3, 2, 2, 1])):
        tensor = model.subgraphs[0].tensors[target]
        model.buffers[tensor.buffer].data = np.frombuffer(
            np.array(values, np.int32).tobytes(), np.uint8
        )
    assert tflite_batch.for_any_batch(one, two)
    x = np.ones((4, 4), np.float32)
    assert run(one, tmp_path, x).shape == (4, 2, 2, 1)


@pytest.mark.parametrize(
    "constants",
    [
        (np.float32([[1]]), np.float32([[2]])),  # a mean over the batch
        (np.float32([[1], [2]]), np.float32([[1], [2], [4]])),
    ],
)
def test_other_constants_that_follow_the_batch_are_left(constants: tuple[Any, Any]) -> None:
    one, two = (
        made_for(batch, constant=constant)
        for batch, constant in zip(tflite_batch.BATCHES, constants, strict=True)
    )
    assert not tflite_batch.for_any_batch(one, two)


def test_other_operators_are_left() -> None:
    one = made_for(2, constant=rows(1))
    two = made_for(3, constant=rows(1), reshaped=[12])
    assert not tflite_batch.for_any_batch(one, two)


@pytest.mark.parametrize(
    ("one", "two", "found"),
    [
        ([[0], [1]], [[0], [1], [2]], True),
        ([[0], [1]], [[0], [1], [3]], False),
        ([[7], [7]], [[7], [7], [7]], True),
        ([[1], [2], [1], [2]], [[1], [2], [1], [2], [1], [2]], True),
        ([[1], [2], [1], [3]], [[1], [2], [1], [2], [1], [2]], False),
        ([[1], [1]], [[1], [1]], False),
    ],
)
def test_rows_that_a_batch_repeats_or_counts(one: Any, two: Any, found: bool) -> None:
    arrays = np.array(one, np.int32), np.array(two, np.int32)
    assert tflite_batch._is_made_of_rows(*arrays, 0) is found
