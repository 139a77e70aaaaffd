"""Which cases are taken together, and that they come apart again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crosscast.pipeline.parity import batches
from crosscast.pipeline.parity.batches import Stacking, groups
from crosscast.pipeline.parity.samples import Case, Origin
from crosscast.pipeline.parity.vectors import Vector
from crosscast.pipeline.signature import Signature, Tensor

X = Tensor(name="x", shape=("batch", 3, 2, 2), dtype="float32", layout="nchw")
H = Tensor(name="h", shape=(2, "batch", 4), dtype="float32")
Y = Tensor(name="y", shape=(5, "batch"), dtype="float32")
MAP = Tensor(name="map", shape=(1, 3, 6, "batch"), dtype="float32", layout="nchw")
SIGNATURE = Signature(inputs=(X, H), outputs=(Y, MAP), dims={"batch": (1, 4)})


def case(number: int, rows: int = 1, origin: Origin = "real") -> Case:
    arrays = {
        "x": np.full((rows, 3, 2, 2), number, np.float32),
        "h": np.full((2, rows, 4), number, np.float32),
    }
    return Case(name=f"{origin} {number}", origin=origin, arrays=arrays, dims={"batch": rows})


def vector(number: int, rows: int = 1, origin: Origin = "real") -> Vector:
    return Vector(case=case(number, rows, origin), outputs={"y": np.zeros((5, rows), np.float32)})


def sizes(*vectors: Vector) -> list[int]:
    return [len(group) for group in groups(vectors)]


def test_groups_are_of_one_origin_and_one_shape() -> None:
    assert sizes(vector(0), vector(1), vector(2, rows=2), vector(3, origin="swept")) == [2, 1, 1]
    assert sizes() == []


def test_groups_end_where_they_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GROUP_CASES", 2)
    assert sizes(*map(vector, range(5))) == [2, 2, 1]
    monkeypatch.setattr(batches, "GROUP_BYTES", 1)
    assert sizes(*map(vector, range(3))) == [1, 1, 1]


def stacking(signature: Signature = SIGNATURE, **change: tuple[int | str, ...]) -> Stacking | None:
    declared = [
        replace(tensor, shape=change.get(tensor.name, tensor.shape)) for tensor in signature.inputs
    ]
    return Stacking.of(signature, layout="nhwc", declared=declared)


def test_rows_are_stacked_where_each_tensor_has_them() -> None:
    found = stacking()
    assert found is not None
    # an nhwc artifact has the width, which the batch is in `map`, before the channels
    assert (found.inputs, found.outputs, found.rows) == ({"x": 0, "h": 1}, {"y": 1, "map": 2}, 4)
    parts = list(found.parts([case(number) for number in range(6)]))
    assert [len(part) for part in parts] == [4, 2]
    fed = found.stacked(parts[0])
    assert fed["x"].shape == (4, 3, 2, 2)
    assert fed["h"][0, :, 0].tolist() == [0, 1, 2, 3]
    apart = found.split({"y": np.tile(np.arange(4), (5, 1))}, parts[0])
    assert [one["y"].tolist() for one in apart] == [[[number]] * 5 for number in range(4)]


def test_batches_of_samples_fill_the_greatest_one() -> None:
    found = stacking()
    assert found is not None
    assert [len(part) for part in found.parts([case(n, rows=2) for n in range(3)])] == [2, 1]
    assert [len(part) for part in found.parts([case(n, rows=9) for n in range(2)])] == [1, 1]


def test_answers_of_another_size_do_not_come_apart() -> None:
    found = stacking()
    assert found is not None
    with pytest.raises(ValueError, match="output 'y' has the shape"):
        found.split({"y": np.zeros((5, 3))}, [case(0), case(1)])


def test_what_cannot_be_stacked_is_not() -> None:
    assert stacking(h=(2, 1, 4)) is None, "the artifact has a fixed batch"
    assert stacking(replace(SIGNATURE, steps={"batch": 2})) is None, "only some sizes are allowed"
    scalar = replace(SIGNATURE, outputs=(replace(Y, shape=()),))
    assert stacking(scalar) is None, "an output is of all rows"
    assert stacking(replace(SIGNATURE, inputs=(X, replace(H, shape=(2, 4))))) is None
