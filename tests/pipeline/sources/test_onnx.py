"""ONNX files as sources: what is read from them, and what is refused. No runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.onnx_file import completed, read, without_weights_as_inputs
from crosscast.pipeline.sources.onnx_layout import declare_missing_shapes, relayout, rename_outputs

onnx = pytest.importorskip("onnx")


def model(*, shape: Any = ("N", 3, None, 8), op: str = "Relu", domain: str = "") -> Any:
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node(op, ["x"], ["h"], name="n0", domain=domain),
            helper.make_node("Mul", ["h", "w"], ["y"], name="n1"),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, ["N", 3, None, 8])],
        [onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), 2, np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def saved(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(value, path)
    return path


def external(tmp_path: Path, location: str = "m.bin") -> Path:
    """A model whose weight lies in a file beside it."""
    value = model()
    onnx.save(
        value,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
        size_threshold=0,
    )
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    light.graph.initializer[0].external_data[0].value = location
    (tmp_path / "m.onnx").write_bytes(light.SerializeToString())
    return tmp_path / "m.onnx"


def test_undeclared_inputs_come_from_the_file() -> None:
    found = completed(model(), Signature(inputs=()))
    assert found.inputs == (Tensor(name="x", shape=("N", 3, "dim0_2", 8), dtype="float32"),)
    assert set(found.dims) == {"N", "dim0_2"}


def test_what_is_declared_stays() -> None:
    declared = Tensor(
        name="x", shape=("batch", 3, 16, 8), dtype="float32", layout="nchw", range=(0, 1)
    )
    found = completed(model(), Signature(inputs=(declared,), dims={"batch": (1, 9)}))
    assert found == Signature(inputs=(declared,), dims={"batch": (1, 9)})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("x", ("b", 3, 8, 8), "int64"), "declared as int64, the ONNX file has float32"),
        (("x", ("b", 3), "float32"), r"declared as \[b, 3\]"),
        (("z", ("b", 3), "float32"), "has no input 'z'; it has 'x'"),
    ],
)
def test_conflicts_are_refused(declared: Any, message: str) -> None:
    name, shape, dtype = declared
    tensor = Tensor(name=name, shape=shape, dtype=dtype)
    with pytest.raises(StageError, match=message):
        completed(model(), Signature(inputs=(tensor,), dims={"b": (1, 4), "w": (1, 4)}))


def test_other_sizes_than_the_file_s_are_for_a_run_to_judge() -> None:
    declared = Tensor(name="x", shape=("b", 4, 8, "w"), dtype="float32")
    sizes = {"b": (1, 4), "w": (1, 4)}
    assert completed(model(), Signature(inputs=(declared,), dims=sizes)).inputs == (declared,)


def test_a_frozen_input_is_none() -> None:
    assert completed(model(), Signature(inputs=()), without=["x"]).inputs == ()


@pytest.mark.parametrize("side", ["input", "output"])
def test_only_tensors_that_can_be_given_are_taken(side: str, tmp_path: Path) -> None:
    odd = model()
    getattr(odd.graph, side)[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT8E5M2
    with pytest.raises(StageError, match="is float8e5m2, which cannot be given or compared"):
        completed(odd, Signature(inputs=()))
    sequence = onnx.helper.make_tensor_sequence_value_info("s", 1, None)
    getattr(odd.graph, side).append(sequence)
    with pytest.raises(StageError, match="'s' is a sequence type; only tensors can be shipped"):
        read(saved(tmp_path, odd), weights=False)


def test_weights_listed_as_inputs_are_no_inputs() -> None:
    old = model()
    old.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [1, 3, 1, 1]))
    old.ir_version = 3
    assert [tensor.name for tensor in completed(old, Signature(inputs=())).inputs] == ["x"]
    new = without_weights_as_inputs(old)
    assert [value.name for value in new.graph.input] == ["x"]
    onnx.checker.check_model(new)


def test_external_data_is_read(tmp_path: Path) -> None:
    value = read(external(tmp_path), weights=True)
    assert onnx.numpy_helper.to_array(value.graph.initializer[0]).max() == 2


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../m.bin", "outside the model's directory"),
        ("/etc/hostname", "outside the model's directory"),
        ("gone.bin", r"external data file 'gone.bin' \(tensor 'w'\) is missing"),
    ],
)
def test_external_data_is_there_and_inside(tmp_path: Path, location: str, message: str) -> None:
    (tmp_path / "m.bin").write_bytes(bytes(12))
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(StageError, match=message):
        read(external(folder, location), weights=False)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    (folder / "m.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "m.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(StageError, match="outside the model's directory"):
        read(path, weights=False)


def test_short_external_data_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "m.bin").write_bytes(b"\0")
    with pytest.raises(StageError, match=r"'m.bin' is truncated: tensor 'w' ends at byte 12"):
        read(path, weights=False)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match="is not an ONNX model, or a truncated one"):
        read(path, weights=True)
    path.write_bytes(b"\xff\x00\x88" * 50)
    with pytest.raises(StageError, match="is not an ONNX model"):
        read(path, weights=True)


def test_custom_operators_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, model(op="Magic", domain="my.ops"))
    with pytest.raises(StageError, match=r"custom operators .*: my.ops::Magic"):
        read(path, weights=True)


def test_relayout_puts_transposes_at_the_edges() -> None:
    reference = pytest.importorskip("onnx.reference")
    image = Tensor(name="x", shape=("N", 3, "H", 8), dtype="float32", layout="nchw")
    result = Tensor(name="y", shape=("N", 3, "H", 8), dtype="float32", layout="nchw")
    signature = Signature(inputs=(image,), outputs=(result,))
    changed = relayout(model(), signature, "nhwc")
    onnx.checker.check_model(changed, full_check=True)
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 8)).astype(np.float32)
    want = reference.ReferenceEvaluator(model()).run(None, {"x": x})[0]
    (got,) = reference.ReferenceEvaluator(changed).run(None, {"x": x.transpose(0, 2, 3, 1)})
    np.testing.assert_array_equal(got, want.transpose(0, 2, 3, 1))
    assert [value.name for value in (*changed.graph.input, *changed.graph.output)] == ["x", "y"]


def test_relayout_to_the_same_layout_changes_nothing() -> None:
    image = Tensor(name="x", shape=("N", 3, "H", 8), dtype="float32", layout="nchw")
    assert relayout(model(), Signature(inputs=(image,)), "nchw") == model()


def test_outputs_without_a_shape_get_one() -> None:
    bare = model()
    bare.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(onnx.checker.ValidationError, match="shape"):
        onnx.checker.check_model(bare)
    told = Tensor(name="y", shape=("N", 3, "H", 8), dtype="float32")
    onnx.checker.check_model(declare_missing_shapes(bare, [told]), full_check=True)


def test_outputs_are_renamed() -> None:
    renamed = rename_outputs(model(), ["scores"])
    onnx.checker.check_model(renamed, full_check=True)
    assert [value.name for value in renamed.graph.output] == ["scores"]
