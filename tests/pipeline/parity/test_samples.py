from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.samples import (
    ALONE,
    Case,
    adversarial,
    assumed_ranges,
    batch_dim,
    bindings,
    example,
    read_cases,
    synthetic,
    write_cases,
)
from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.signature import Layout, Signature, Tensor

IMAGE = Tensor(
    name="image", shape=("batch", 3, 4, 4), dtype="float32", layout="nchw", range=(-1.0, 2.0)
)
IMAGES = Signature(inputs=(IMAGE,), dims={"batch": (1, 4)})
TEXT = Signature(
    inputs=(
        Tensor(name="ids", shape=("batch", "length"), dtype="int64", range=(0, 99)),
        Tensor(name="mask", shape=("batch", "length"), dtype="bool"),
    ),
    dims={"batch": (1, 8), "length": (1, 8)},
)


def real(count: int, rows: int = 1) -> list[Case]:
    return [
        Case(
            name=f"real {index}",
            origin="real",
            arrays={"image": np.full((rows, 3, 4, 4), index, np.float32)},
            dims={"batch": rows},
        )
        for index in range(count)
    ]


def digest(tree: Path) -> str:
    files = sorted(path for path in tree.iterdir())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_cases_come_back_as_written(tmp_path: Path) -> None:
    scalar = Case(name="s", origin="real", arrays={"x": np.array(3.0, np.float32)}, dims={})
    strided = Case(
        name="t",
        origin="synthetic",
        arrays={"x": np.arange(6, dtype=np.int64).reshape(2, 3).T, "b": np.array([True, False])},
        dims={"n": 3},
    )
    assert write_cases([scalar, strided], out=tmp_path) == {"real": 1, "synthetic": 1}
    for wrote, read in zip([scalar, strided], read_cases(tmp_path), strict=True):
        assert (read.name, read.origin, read.dims) == (wrote.name, wrote.origin, wrote.dims)
        for name, array in wrote.arrays.items():
            np.testing.assert_array_equal(read.arrays[name], array, strict=True)
    entries = json.loads((tmp_path / "cases.json").read_text())
    assert [entry["file"] for entry in entries] == ["0000.safetensors", "0001.safetensors"]


def test_writing_holds_one_case_at_a_time(tmp_path: Path) -> None:
    def cases() -> Iterator[Case]:
        for index in range(5):
            assert len(list(tmp_path.glob("*.safetensors"))) == index
            yield real(1)[0]

    assert write_cases(cases(), out=tmp_path) == {"real": 5}


def test_the_same_signature_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_cases(parity_cases(real(2), signature=IMAGES), out=tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})


def test_real_samples_are_stacked_to_each_batch_size() -> None:
    cases = list(parity_cases(real(2), signature=IMAGES))
    assert [case.name for case in cases] == [
        "real 0",
        "real 1",
        "swept batch=3",
        "swept batch=4",
        "adversarial zeros",
        "adversarial least",
        "adversarial greatest",
        "adversarial impulse",
        "adversarial constant",
        "adversarial saturating",
        "adversarial one-hot",
    ]
    swept = cases[2]
    assert swept.dims == {"batch": 3}
    np.testing.assert_array_equal(swept.arrays["image"][:, 0, 0, 0], [0, 1, 0])


def test_a_batch_size_among_the_real_samples_is_not_made_again() -> None:
    cases = parity_cases([*real(1), *real(1, rows=4)], signature=IMAGES)
    assert [case.name for case in cases if case.origin == "swept"] == ["swept batch=3"]


def test_without_samples_there_are_synthetic_cases() -> None:
    cases = list(parity_cases([], signature=IMAGES))
    assert {case.origin for case in cases} == {"synthetic", "adversarial"}
    assert [case.dims["batch"] for case in cases if case.origin == "synthetic"] == [1, 3, 4]


def test_other_dynamic_dims_are_swept_by_synthetic_cases() -> None:
    ids = {"ids": np.ones((1, 5), np.int64), "mask": np.ones((1, 5), np.bool_)}
    given = Case(name="real 0", origin="real", arrays=ids, dims={"batch": 1, "length": 5})
    cases = list(parity_cases([given], signature=TEXT))
    synthetic_dims = [case.dims for case in cases if case.origin == "synthetic"]
    assert synthetic_dims == bindings(TEXT)
    assert [case.dims for case in cases if case.origin == "swept"] == [
        {"batch": size, "length": 5} for size in (5, 8)
    ]


def test_fixed_shapes_still_get_several_synthetic_cases() -> None:
    signature = Signature(inputs=(Tensor(name="x", shape=(2,), dtype="float32"),))
    cases = list(synthetic(signature))
    assert len(cases) == 3
    assert len({case.arrays["x"].tobytes() for case in cases}) == 3
    assert assumed_ranges(signature) == [
        "input 'x' declares no range: values in [-1, 1] were assumed"
    ]


def test_synthetic_values_keep_dtype_range_and_shape() -> None:
    narrow = Tensor(name="x", shape=(1000,), dtype="float32", range=(0.1, 0.1000001))
    half = Tensor(name="h", shape=(1000,), dtype="float16", range=(0.0, 1.0))
    ids = Tensor(name="i", shape=(1000,), dtype="int64", range=(3, 5))
    flags = Tensor(name="b", shape=(1000,), dtype="bool")
    unknown = Tensor(name="u", shape=(1000,), dtype="int64")
    for case in synthetic(Signature(inputs=(narrow, half, ids, flags, unknown))):
        for tensor in (narrow, half, ids, flags, unknown):
            assert case.arrays[tensor.name].dtype == tensor.dtype
            assert case.arrays[tensor.name].shape == (1000,)
        assert case.arrays["x"].max() <= np.float32(0.1000001)
        assert set(case.arrays["i"].tolist()) == {3, 4, 5}
        assert set(case.arrays["b"].tolist()) == {False, True}
        assert set(case.arrays["u"].tolist()) == {0, 1}


def test_adversarial_cases_are_extremes_of_the_declared_range() -> None:
    arrays = {case.name: case.arrays["image"] for case in adversarial(IMAGES)}
    assert set(arrays["adversarial zeros"].flat) == {0.0}
    assert set(arrays["adversarial least"].flat) == {-1.0}
    assert set(arrays["adversarial greatest"].flat) == {2.0}
    impulse = arrays["adversarial impulse"]
    assert impulse.shape[0] == 2
    assert (impulse == 2.0).sum(axis=(1, 2, 3)).tolist() == [1, 1]
    assert set(arrays["adversarial constant"].flat) == {0.5}


def test_saturating_rows_go_from_end_to_end_at_every_step() -> None:
    (row, *_) = [case for case in adversarial(IMAGES) if case.name == "adversarial saturating"]
    steps = np.abs(np.diff(row.arrays["image"].reshape(2, -1), axis=1))
    assert set(steps.flat) == {3.0}


@pytest.mark.parametrize(("layout", "axis"), [("nchw", 1), ("nhwc", 3)])
def test_one_hot_lights_one_channel_at_each_place_and_another_at_the_next(
    layout: Layout, axis: int
) -> None:
    tensor = replace(IMAGE, shape=(2, 5, 6, 7), layout=layout)
    (case,) = [
        case
        for case in adversarial(Signature(inputs=(tensor,)))
        if case.name == "adversarial one-hot"
    ]
    lit = case.arrays["image"] == 2.0
    assert (lit.sum(axis) == 1).all()
    chosen = lit.argmax(axis)
    assert (np.diff(chosen, axis=-1) != 0).all()
    assert set(chosen.flat) == set(range(lit.shape[axis]))


def test_padding_is_one_token_and_nothing_else() -> None:
    cases = {case.name: case.arrays for case in adversarial(TEXT)}
    padding = cases["adversarial padding"]
    assert set(padding["ids"].flat) == {0}
    assert padding["mask"].tolist() == [[True, False, False]] * 2


def test_only_inputs_beside_tokens_are_masks() -> None:
    flags = Tensor(name="flags", shape=("batch", 7), dtype="bool")
    image = replace(IMAGE, range=(0, 1))
    names = [case.name for case in adversarial(replace(IMAGES, inputs=(image, flags)))]
    assert "adversarial padding" not in names


def test_zeros_become_the_value_nearest_to_zero_and_copies_are_dropped() -> None:
    signature = Signature(inputs=(Tensor(name="x", shape=(4,), dtype="float32", range=(0.5, 1.0)),))
    names = [case.name for case in adversarial(signature)]
    assert names == [
        f"adversarial {name}" for name in ("zeros", "greatest", "impulse", "constant", "saturating")
    ]
    assert set(next(iter(adversarial(signature))).arrays["x"].flat) == {0.5}


def test_a_scalar_input_has_adversarial_cases() -> None:
    signature = Signature(inputs=(Tensor(name="x", shape=(), dtype="float32"),))
    assert [float(case.arrays["x"]) for case in adversarial(signature)] == [0.0, -1.0, 1.0]


def test_bindings_are_least_odd_middle_and_greatest_with_unlike_middles() -> None:
    assert bindings(TEXT) == [
        {"batch": 1, "length": 1},
        {"batch": 5, "length": 3},
        {"batch": 8, "length": 1},
        {"batch": 1, "length": 8},
        {"batch": 8, "length": 8},
    ]
    assert bindings(Signature(inputs=(IMAGE,), dims={"batch": (1, 2)})) == [
        {"batch": 1},
        {"batch": 2},
    ]
    assert bindings(Signature(inputs=(IMAGE,), dims={"batch": (7, 7)})) == [{"batch": 7}]
    huge = bindings(Signature(inputs=(IMAGE,), dims={"batch": (1, 10**12)}))
    assert huge[1]["batch"] % 2 == 1


def test_a_dynamic_dim_without_sizes_is_an_error() -> None:
    with pytest.raises(StageError, match="'batch' has no least and greatest size"):
        bindings(Signature(inputs=(IMAGE,)))


def test_example_sizes_are_at_least_two_and_unlike_each_other() -> None:
    arrays = example(TEXT)
    assert arrays["ids"].shape == arrays["mask"].shape == (2, 3)
    assert example(IMAGES)["image"].shape == (2, 3, 4, 4)
    fixed_two = Tensor(name="x", shape=("n", 2), dtype="float32")
    assert example(Signature(inputs=(fixed_two,), dims={"n": (1, 9)}))["x"].shape == (3, 2)


def test_a_dimension_is_alone_at_its_greatest_only_where_there_are_few() -> None:
    names = [f"d{index}" for index in range(40)]
    tensor = Tensor(name="x", shape=tuple(names), dtype="float32")
    found = bindings(Signature(inputs=(tensor,), dims=dict.fromkeys(names, (1, 9))))
    assert len(found) == 3 + ALONE
    assert found[-1] == dict.fromkeys(names, 9)


@pytest.mark.parametrize(("bounds", "size"), [((1, 1), 1), ((1, 2), 2), ((32, 64), 32)])
def test_example_stays_within_the_declared_sizes(bounds: tuple[int, int], size: int) -> None:
    signature = Signature(inputs=(IMAGE,), dims={"batch": bounds})
    assert example(signature)["image"].shape[0] == size


def test_a_batch_dim_comes_first_in_every_input_and_nowhere_else() -> None:
    def of(*shapes: tuple[int | str, ...]) -> str | None:
        tensors = (
            Tensor(name=str(index), shape=shape, dtype="float32")
            for index, shape in enumerate(shapes)
        )
        return batch_dim(Signature(inputs=tuple(tensors)))

    assert of(("b", 3), ("b",)) == "b"
    assert of(("b", 3), (2, "b")) is None
    assert of(("b", "b")) is None
    assert of(("b",), ()) is None
    assert of((1, 3)) is None
