"""Files for a few fixed sizes become one for any, which LiteRT runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from crosscast.targets.families import tflite_file as files
from crosscast.targets.families import tflite_runtime
from crosscast.targets.families.tflite_finish import sign
from crosscast.targets.families.tflite_growth import told
from crosscast.targets.families.tflite_merge import lean, merged
from crosscast.targets.families.tflite_numbers import Point
from crosscast.targets.families.tflite_trial import fault

pytestmark = pytest.mark.e2e

BATCHES: list[Point] = [{"n": 2}, {"n": 3}]
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
    assert merged([one, two], BATCHES)
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
    assert merged([one, two], BATCHES)
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
        for batch, constant in zip((2, 3), constants, strict=True)
    )
    assert not merged([one, two], BATCHES)


def test_other_operators_are_left() -> None:
    one = made_for(2, constant=rows(1))
    two = made_for(3, constant=rows(1), reshaped=[12])
    assert not merged([one, two], BATCHES)


POINTS: list[Point] = [{"n": 2, "t": 5}, {"n": 3, "t": 5}, {"n": 2, "t": 8}, {"n": 4, "t": 16}]
TABLE = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)


def sequence(point: Point, rule: Callable[[Point], Any]) -> Any:
    """x [n, t, 4] + constant, as [t, n, 4] at last."""
    n, t = point["n"], point["t"]
    model = made_for(n, constant=rule(point), reshaped=[t, n, 4])
    graph = model.subgraphs[0]
    for index in graph.operators[0].inputs[:1] + graph.operators[0].outputs:
        files.set_shape(graph.tensors[index], [n, t, 4])
    return model


@pytest.mark.parametrize(
    ("rule", "bounded"),
    [
        (lambda point: TABLE[: point["t"]], True),
        (lambda point: TABLE[16 - point["t"] :], True),
        (lambda point: np.tile(TABLE[: point["t"]], (point["n"], 1, 1)), True),
        (lambda point: np.full((point["n"], point["t"], 4), 2, np.float32), False),
    ],
)
def test_several_dimensions_follow(
    tmp_path: Path, rule: Callable[[Point], Any], bounded: bool
) -> None:
    made = [sequence(point, rule) for point in POINTS]
    assert merged(made, POINTS, bounded=bounded)
    for n, t in ((1, 1), (3, 9), (5, 16)):
        x = np.random.default_rng(1).standard_normal((n, t, 4)).astype(np.float32)
        wanted = (x + rule({"n": n, "t": t})).reshape(t, n, 4)
        np.testing.assert_array_equal(run(made[0], tmp_path, x), wanted)


def test_large_constants_of_several_files_are_held_once() -> None:
    table = np.arange(2048, dtype=np.float32).reshape(512, 4)
    one, two = (made_for(512, constant=table) for _ in range(2))
    again = lean(files.parse(files.packed(two)), one)
    constants = [made.subgraphs[0].tensors[1] for made in (one, again)]
    first, second = (
        made.buffers[tensor.buffer].data
        for made, tensor in zip((one, again), constants, strict=True)
    )
    assert first is second
    assert files.packed(again) == files.packed(two)


def test_what_is_cut_ends_at_the_greatest_sizes(tmp_path: Path) -> None:
    made = [sequence(point, lambda point: TABLE[: point["t"]]) for point in POINTS]
    assert not merged(made, POINTS)
    made = [sequence(point, lambda point: TABLE[: point["t"]]) for point in POINTS]
    assert merged(made, POINTS, bounded=True)
    folder = tmp_path / "made"
    folder.mkdir()
    files.write(made[0], folder / "model.tflite")
    assert fault(folder, [({"x": (4, 16, 4)}, [(16, 4, 4)])]) == ""
    assert "in place of" in fault(folder, [({"x": (4, 16, 4)}, [(4, 16, 4)])])
    assert "could not run" in fault(folder, [({"x": (4, 17, 4)}, [None])])


@pytest.mark.parametrize(
    ("values", "points", "found"),
    [
        (([[0], [1]], [[0], [1], [2]]), BATCHES, True),
        (([[0], [1]], [[0], [1], [3]]), BATCHES, False),
        (([[7], [7]], [[7], [7], [7]]), BATCHES, True),
        (([[1], [2], [1], [2]], [[1], [2], [1], [2], [1], [2]]), BATCHES, True),
        (([[1], [2], [1], [3]], [[1], [2], [1], [2], [1], [2]]), BATCHES, False),
    ],
)
def test_rows_that_a_batch_repeats_or_counts(values: Any, points: Any, found: bool) -> None:
    arrays = [np.array(each, np.int32) for each in values]
    assert (told(arrays, points, bounded=False) is not None) is found
