"""What computes in float32 in an fp16 model: found by trial, and said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.targets import onnx_fp16
from crosscast.targets.families import onnx_float16, onnx_strict, onnx_widen
from crosscast.targets.families.onnx import with_types

RNG = np.random.default_rng(0)
DENSE = (RNG.standard_normal((64, 64)) / 8).astype(np.float32)


def place(tmp_path: Path, nodes: list[Any], **constants: Any) -> Path:
    """A tree of a model from x to y, with the matrix w."""
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(DENSE, "w"), *tensors],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    tree = tmp_path / "model"
    tree.mkdir()
    onnx.save(made, tree / "model.onnx")
    return tree


def products(*rest: Any) -> list[Any]:
    return [helper.make_node("MatMul", ["x", "w"], ["h"]), *rest]


def small(scale: str = "s") -> list[Any]:
    """A model whose outputs are below what fp16 has."""
    return products(helper.make_node("Mul", ["h", scale], ["y"]))


def squares() -> list[Any]:
    """A norm of what is squared beyond what fp16 has, as language models have it."""
    return products(
        helper.make_node("Mul", ["h", "s"], ["wide"]),
        helper.make_node("Mul", ["wide", "wide"], ["squared"]),
        # ONNX Runtime holds this in fp16, which it does not between what it has no kernels for.
        helper.make_node("Flatten", ["squared"], ["flat"], axis=0),
        helper.make_node("ReduceMean", ["flat"], ["mean"]),
        helper.make_node("Sqrt", ["mean"], ["norm"]),
        helper.make_node("Div", ["wide", "norm"], ["y"]),
    )


def converted(tree: Path, tmp_path: Path, **options: Any) -> tuple[Any, str]:
    """The model, and what is said of it."""
    samples = options.pop("samples", None)
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    onnx_fp16.quantize(model=tree, options=options, samples=samples, out=out)
    assert onnx_fp16.precision(artifact=out).delivered == "fp16"
    notes = out / "notes.json"
    said = json.loads(notes.read_text()).get("said", "") if notes.exists() else ""
    return onnx_fp16.open(artifact=out), said


def test_what_fp16_holds_stays_in_fp16(tmp_path: Path) -> None:
    _, said = converted(place(tmp_path, small(), s=np.float32(2)), tmp_path)
    assert said == ""


@pytest.mark.parametrize(("nodes", "scale"), [(small(), 1e-9), (squares(), 1e4)])
def test_what_fp16_does_not_hold_is_computed_in_float32(
    tmp_path: Path, nodes: list[Any], scale: float
) -> None:
    tree = place(tmp_path, nodes, s=np.float32(scale))
    session, said = converted(tree, tmp_path)
    assert "compute: mixed" in said
    x = RNG.uniform(-1, 1, (3, 64)).astype(np.float32)
    h = x @ DENSE * np.float32(scale)
    wanted = h if len(nodes) == 2 else h / np.sqrt((h * h).mean())
    np.testing.assert_allclose(
        session.run({"x": x})["y"], wanted, atol=4e-3 * float(np.abs(wanted).max())
    )


def test_what_samples_show_alone_is_seen(tmp_path: Path) -> None:
    tree = place(tmp_path, squares(), s=np.float32(1))
    x = np.full((2, 64), 1e4, np.float32)
    write_cases([Case(name="real 0", origin="real", arrays={"x": x})], out=tmp_path / "samples")
    assert converted(tree, tmp_path)[1] == ""
    assert "compute: mixed" in converted(tree, tmp_path, samples=tmp_path / "samples")[1]


@pytest.mark.parametrize(
    ("compute", "kinds"),
    [("float16", {10}), ("mixed", {1, 10}), ("float32", {1})],
)
def test_a_choice_that_is_made_is_kept(tmp_path: Path, compute: str, kinds: set[int]) -> None:
    tree = place(tmp_path, small(), s=np.float32(2))
    out = tmp_path / "out"
    out.mkdir()
    options = {"compute": compute, "on_mismatch": "fail"}
    onnx_fp16.quantize(model=tree, options=options, samples=None, out=out)
    typed = onnx.shape_inference.infer_shapes(onnx.load(out / "model.onnx")).graph
    results = {name for node in typed.node if node.op_type != "Cast" for name in node.output}
    values = (*typed.value_info, *typed.output)
    assert {v.type.tensor_type.elem_type for v in values if v.name in results} == kinds


def test_float32_results_reach_outputs_and_readers_without_a_detour(tmp_path: Path) -> None:
    nodes = products(
        helper.make_node("CumSum", ["h", "axis"], ["c"], name="y"),
        helper.make_node("CumSum", ["c", "axis"], ["y"], name="y/cast"),
    )
    tree = place(tmp_path, nodes, axis=np.array(1))
    out = tmp_path / "out"
    out.mkdir()
    options = {"compute": "float16", "on_mismatch": "fail"}
    onnx_fp16.quantize(model=tree, options=options, samples=None, out=out)
    graph = onnx.load(out / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["Cast", "MatMul", "Cast", "CumSum", "CumSum"]
    assert len({node.name for node in graph.node}) == len(graph.node)
    onnx_fp16.open(artifact=out)


def test_strict_rounds_what_runtimes_without_fp16_leave_exact() -> None:
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    half = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=10),
        helper.make_node("Mul", ["h", "h"], ["square"]),
        helper.make_node("Sqrt", ["square"], ["root"]),
        helper.make_node("Cast", ["root"], ["y"], to=1),
    ]
    made = helper.make_model(
        helper.make_graph(nodes, "net", [one], [half]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    strict = onnx_strict.strict(made)
    onnx.checker.check_model(strict, full_check=True)
    session = onnxruntime.InferenceSession(strict.SerializeToString())
    assert session.run(None, {"x": np.array([300], np.float32)})[0] == np.inf
    assert session.run(None, {"x": np.array([3], np.float32)})[0] == 3


@pytest.mark.parametrize(
    ("losses", "compute"),
    [
        ([(1, -3), (0, -9)], "mixed"),
        ([(5, -3), (4, -4), (3, -5)], ""),
        ([(5, -3), (2, -3), (1, -3)], "mixed"),
        # one element's error is chance, the noise of the typical case is not
        ([(5, -30), (5, -31), (6, -40)], "float32"),
        ([(5, -math.inf), (5, -math.inf), (5, -math.inf)], ""),
        ([(math.inf, math.inf), (math.inf, math.inf), (4, -9)], "float32"),
    ],
)
def test_where_none_is_good_enough_the_best_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: list[Any], compute: str
) -> None:
    left = iter(losses)
    monkeypatch.setattr(onnx_widen._Trial, "loss", lambda *_: onnx_widen.Loss(*next(left)))
    said = converted(place(tmp_path, small(), s=np.float32(1)), tmp_path)[1]
    assert f"compute: {compute}" in said if compute else said == ""


def test_noise_is_seen_behind_a_sure_answer(tmp_path: Path) -> None:
    nodes = products(
        helper.make_node("Add", ["h", "sure"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["y"]),
    )
    tree = place(tmp_path, nodes, sure=np.float32(40))
    model = onnx.load(tree / "model.onnx")
    trial = onnx_widen._Trial.of(model, tree, None)
    assert trial is not None
    loss = trial.loss(onnx_float16.halved(with_types(model), keep_io=True))
    assert loss.lack < -60
    assert -60 < loss.noise < 0
