"""The ONNX family, on graphs made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Tensor
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def a_model(opset: int = 18, *, dims: Any = ("batch", 3)) -> Any:
    """Softmax(x @ w), with what an exporter leaves of its machine."""
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"], doc_string="File '/home/me/net.py'"),
        onnx.helper.make_node("Softmax", ["h"], ["y"], axis=1),
    ]
    nodes[1].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File '/home/me/net.py'")
    nodes[1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['head']")
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, dims)],
        [onnx.helper.make_tensor_value_info("y", 1, dims)],
        [weight],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def a_tree(root: Path, model: Any, **notes: Any) -> Path:
    tree = root / "in"
    tree.mkdir()
    (root / "out").mkdir()
    family.save(model, tree)
    if notes:
        (tree / "notes.json").write_text(json.dumps(notes))
    return tree


def convert(tree: Path, **options: Any) -> Path:
    out = tree.parent / "out"
    family.convert(model=tree, options=options, out=out)
    return out


def test_convert_keeps_the_model_and_forgets_the_machine(tmp_path: Path) -> None:
    out = convert(a_tree(tmp_path, a_model(), exporter="torch.onnx"))
    written = (out / "model.onnx").read_bytes()
    assert b"/home/me" not in written
    assert b"name_scopes" in written
    assert family.interface(family.load(out)) == family.interface(a_model())
    assert family.read_notes(out) == {"exporter": "torch.onnx"}


def test_an_exporter_that_delivers_another_opset_is_an_error(tmp_path: Path) -> None:
    tree = a_tree(tmp_path, a_model(18), exporter="torch.onnx")
    with pytest.raises(
        StageError, match="the exporter delivered opset 18 where 17 was asked for"
    ) as caught:
        convert(tree, opset=17)
    assert "opset: 18" in caught.value.fix


def test_a_file_of_another_opset_is_brought_to_the_one_asked_for(tmp_path: Path) -> None:
    tree = a_tree(tmp_path, a_model(11))
    out = convert(tree, opset=18)
    assert family.opset(family.load(out)) == 18
    x = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    before, after = (onnx_runtime.open(artifact=place).run(x) for place in (tree, out))
    np.testing.assert_allclose(after["y"], before["y"], rtol=1e-6)


def test_an_opset_that_cannot_be_reached_is_an_error_that_names_both(tmp_path: Path) -> None:
    model = a_model(18)
    model.graph.node[1].op_type = "Mish"
    del model.graph.node[1].attribute[:]
    with pytest.raises(StageError, match="has opset 18 and cannot be brought to opset 9"):
        convert(a_tree(tmp_path, model), opset=9)


def test_an_invalid_model_is_an_error(tmp_path: Path) -> None:
    model = a_model()
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(StageError, match="the converted model is not valid ONNX"):
        convert(a_tree(tmp_path, model))


def test_opsets_out_of_range_are_refused() -> None:
    for opset in (6, 24):
        with pytest.raises(ValueError, match="opset"):
            family.OnnxOptions(opset=opset)


def test_tensors_above_the_limit_go_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model()
    del model.graph.initializer[:]
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.ones((3, 3000), np.float32), "w")
    )
    model.graph.node[1].input[0] = "h"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3000
    monkeypatch.setattr(family, "PROTOBUF_LIMIT", 1000)
    tree = a_tree(tmp_path, model)
    assert sorted(path.name for path in tree.iterdir()) == ["model.onnx", "model.onnx.data"]
    out = convert(tree)
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "model.onnx.data"]
    y = onnx_runtime.open(artifact=out).run({"x": np.ones((1, 3), np.float32)})["y"]
    assert y.shape == (1, 3000)
    (out / "model.onnx.data").unlink()
    with pytest.raises(StageError, match="cannot be read as an ONNX model"):
        family.load(out)


def test_session_declares_names_shapes_and_dtypes(tmp_path: Path) -> None:
    session = onnx_runtime.open(artifact=a_tree(tmp_path, a_model()))
    assert session.inputs == (Tensor(name="x", shape=("batch", 3), dtype="float32"),)
    assert session.outputs == (Tensor(name="y", shape=("batch", 3), dtype="float32"),)


def test_a_nameless_dynamic_dimension_is_named_after_its_place(tmp_path: Path) -> None:
    model = a_model(dims=(None, 3))
    assert family.interface(model)[0][0].shape == ("x_0", 3)
    assert onnx_runtime.open(artifact=a_tree(tmp_path, model)).inputs[0].shape == ("x_0", 3)


def test_session_errors_are_stage_errors(tmp_path: Path) -> None:
    tree = a_tree(tmp_path, a_model())
    with pytest.raises(StageError, match="ONNX Runtime cannot run the model"):
        onnx_runtime.open(artifact=tree).run({"x": np.zeros((1, 4), np.float32)})
    (tree / "model.onnx").write_bytes(b"no model")
    with pytest.raises(StageError, match="ONNX Runtime cannot load the model"):
        onnx_runtime.open(artifact=tree)


def test_only_tensors_are_shipped() -> None:
    model = a_model()
    sequence = onnx.helper.make_tensor_sequence_value_info("s", 1, None)
    model.graph.output.append(sequence)
    with pytest.raises(StageError, match="'s' of the ONNX model is a sequence_type"):
        family.interface(model)


def test_precision_counts_weights_and_no_shapes(tmp_path: Path) -> None:
    model = a_model()
    shape = onnx.numpy_helper.from_array(np.zeros(1000, np.int64), "shape")
    model.graph.initializer.append(shape)
    audit = onnx_runtime.precision(artifact=a_tree(tmp_path, model))
    assert audit.delivered == "fp32"
    assert audit.weights == {"float32": 36}


def test_a_model_without_weights_is_judged_by_its_conversions(tmp_path: Path) -> None:
    model = a_model()
    del model.graph.initializer[:], model.graph.node[0]
    model.graph.node[0].input[0] = "x"
    assert onnx_runtime.precision(artifact=a_tree(tmp_path, model)).delivered == "fp32"
