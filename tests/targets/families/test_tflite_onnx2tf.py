from __future__ import annotations

from types import SimpleNamespace

import pytest

from crosscast.targets.families.tflite_onnx2tf import _broadcasts


@pytest.mark.parametrize(
    ("one", "other", "output", "found"),
    [
        ([2, 1, 1, 5], [2, 1, 5, 1], [2, 1, 5, 5], True),
        ([2, 1, 1, 5], [2, 1, 5, 1], [2, 1, 1, 5], False),  # one tensor in two layouts
        ([2, 8, 8, 4], [2, 4, 8, 8], [2, 8, 8, 4], False),
        ([2, 8, 8, 4], [1, 1, 1, 4], [2, 8, 8, 4], False),
    ],
)
def test_an_outer_product_is_told_from_two_layouts(
    one: list[int], other: list[int], output: list[int], found: bool
) -> None:
    shapes = {"one": one, "other": other, "output": output}
    graph = SimpleNamespace(
        tensors={name: SimpleNamespace(shape=shape) for name, shape in shapes.items()}
    )
    operator = SimpleNamespace(inputs=["one", "other"], outputs=["output"])
    assert _broadcasts(graph, operator) is found
    operator.inputs = ["one", "missing"]
    assert not _broadcasts(graph, operator)
