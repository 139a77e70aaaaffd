from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets.families.tflite_shapes import output_shapes
from crosscast.targets.families.tflite_sizes import Bounds, Sizes, sizes_of


def saved(folder: Path, *shapes: tuple[int | str, ...], out: Any = None, **told: Any) -> Path:
    """A graph with an input of each shape, and the signature beside it where dims are told."""
    values = [
        helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, shape)
        for index, shape in enumerate(shapes)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, out)
    node = helper.make_node("Relu", ["x0"], ["y"])
    path = folder / "model.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "net", values, [output])), str(path))
    if told:
        signature = Signature(
            inputs=tuple(
                Tensor(name=f"x{index}", shape=shape, dtype="float32")
                for index, shape in enumerate(told.pop("named", shapes))
            ),
            **told,
        )
        (folder / "signature.json").write_text(json.dumps(signature.to_json()))
    return path


@pytest.mark.parametrize(
    ("bounds", "pair"),
    [
        (Bounds(), (5, 8)),
        (Bounds(low=1, high=64), (5, 8)),
        (Bounds(low=8, high=64), (8, 9)),
        (Bounds(low=1, high=4), (3, 4)),
        (Bounds(low=1, high=2), (2, 3)),
        (Bounds(low=32, high=320, step=32), (32, 64)),
    ],
)
def test_two_sizes_within_the_bounds(bounds: Bounds, pair: tuple[int, int]) -> None:
    assert bounds.pair((5, 8)) == pair


def test_each_dimension_is_raised_alone_and_none_is_as_great_as_another(tmp_path: Path) -> None:
    path = saved(tmp_path, ("n", "t"), ("n", "u"), dims={"n": (1, 4), "t": (1, 64), "u": (1, 64)})
    sizes = sizes_of(path, batch=None)
    assert sizes is not None
    assert [tuple(point.values()) for point in sizes.points()] == [
        (2, 5, 11),
        (3, 5, 11),
        (2, 8, 11),
        (2, 5, 14),
        (4, 64, 63),
        (2, 5, 64),
    ]
    assert [tuple(point.values()) for point in sizes.trials()] == [
        (1, 1, 1),
        (3, 8, 14),
        (4, 64, 64),
    ]
    assert sizes.shapes(sizes.points()[0]) == {"x0": (2, 5), "x1": (2, 11)}
    assert sizes.is_bounded


def test_a_lone_batch_is_converted_at_two_sizes(tmp_path: Path) -> None:
    sizes = sizes_of(saved(tmp_path, ("n", 3), ("n",)), batch="n")
    assert sizes == Sizes(inputs={"x0": ("n", 3), "x1": ("n",)}, bounds={"n": Bounds()}, batch="n")
    assert sizes.points() == [{"n": 2}, {"n": 3}]
    assert not sizes.is_bounded


def test_the_signature_names_dimensions_by_their_place(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        ("?", 3, "unk"),
        named=[("batch", 3, "width")],
        dims={"batch": (1, 4), "width": (32, 96)},
        steps={"width": 32},
    )
    sizes = sizes_of(path, batch=None)
    assert sizes is not None
    assert sizes.inputs == {"x0": ("batch", 3, "width")}
    assert sizes.bounds["width"] == Bounds(low=32, high=96, step=32)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2, 3), {"dims": {}}),
        (("n", "t"), {}),
        (("n", "t"), {"dims": {"n": (1, 4)}}),
        (("n", "t"), {"named": [("n", 5)], "dims": {"n": (1, 4)}}),
    ],
)
def test_unknown_dimensions_are_left(tmp_path: Path, shape: Any, told: Any) -> None:
    assert sizes_of(saved(tmp_path, shape, **told), batch=None) is None


@pytest.mark.parametrize("out", [None, ("n", "t"), ("n", "whatever")])
def test_shapes_of_outputs_are_declared_or_inferred(tmp_path: Path, out: Any) -> None:
    path = saved(tmp_path, ("n", "t"), out=out)
    assert output_shapes(path, {"x0": (2, 5)}) == [(2, 5)]
