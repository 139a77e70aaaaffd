"""Weights in int8, int4 and float16: what is stored, and that it computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.targets import onnx_fp16, onnx_int4, onnx_int8_dynamic, ort
from crosscast.targets.families import onnx_int4 as int4
from crosscast.targets.families import onnx_runtime, onnx_weights
from crosscast.targets.families.onnx_audit import audit, refuse_unless
from crosscast.targets.families.onnx_held import Held, Node

onnx = pytest.importorskip("onnx")
make = pytest.importorskip("onnx.helper").make_node
RANDOM = np.random.default_rng(0)


def model(nodes: list[Any], weights: dict[str, Any], *, reads: int = 1, gives: int = 1) -> Any:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", reads, None)],
        [info("y", gives, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    for value, shape in ((graph.input[0], ["n", 64]), (graph.output[0], ["n", 64])):
        value.CopyFrom(info(value.name, value.type.tensor_type.elem_type, shape))
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


def weight(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def tied() -> Any:
    """An embedding that is the head as well, with a Gemm between them."""
    nodes = [
        make("Gather", ["e", "x"], ["h"]),
        make("Gemm", ["flat", "w", "b"], ["g"], transB=1),
        make("Transpose", ["e"], ["t"], perm=[1, 0]),
        make("MatMul", ["g", "t"], ["y"]),
    ]
    nodes.insert(1, make("Reshape", ["h", "rows"], ["flat"]))
    shapes = {"e": weight(64, 32), "w": weight(32, 32), "b": weight(32)}
    made = model(nodes, {**shapes, "rows": np.array([-1, 32])}, reads=7)
    made.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 7, ["n"]))
    return made


def tree(tmp_path: Path, made: Any) -> Path:
    place = tmp_path / "model"
    place.mkdir(exist_ok=True)
    (place / "model.onnx").write_bytes(made.SerializeToString())
    return place


def snr(one: Path, other: Path, x: Any, opened: Any = onnx_runtime) -> float:
    wanted = onnx_runtime.open(artifact=one).run({"x": x})["y"].astype(float)
    given = opened.open(artifact=other).run({"x": x})["y"].astype(float)
    return float(10 * np.log10((wanted**2).sum() / max(((given - wanted) ** 2).sum(), 1e-30)))


@pytest.mark.parametrize(
    ("target", "precision", "least"),
    [(onnx_int8_dynamic, "int8", 35), (onnx_int4, "int4", 15)],
)
def test_tied_weights_are_quantized_where_they_are_read(
    tmp_path: Path, target: Any, precision: str, least: float
) -> None:
    place, out = tree(tmp_path, tied()), tmp_path / "out"
    out.mkdir()
    target.quantize(model=place, options={}, samples=None, out=out)
    assert target.precision(artifact=out).delivered == precision
    assert snr(place, out, np.arange(0, 60, 7)) > least
    again = tmp_path / "again"
    again.mkdir()
    target.quantize(model=place, options={}, samples=None, out=again)
    assert (out / "model.onnx").read_bytes() == (again / "model.onnx").read_bytes()


def test_transposed_weights_are_folded_and_gemms_split() -> None:
    made = tied()
    onnx_weights.prepare(made)
    onnx_weights.split_gemms(made, lambda _: True)
    operators = [node.op_type for node in made.graph.node]
    assert operators == ["Gather", "Reshape", "MatMul", "Add", "MatMul"]
    kept = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    assert kept["e_transposed"] == (32, 64)
    assert "w" not in kept


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("columns", [64, 40])
def test_blocks_give_back_what_they_hold(symmetric: bool, columns: int) -> None:
    rows = weight(6, columns)
    rows[2] = 0.0
    levels, scales, zeros = int4.blocks(rows, 32, symmetric=symmetric)
    restored = (levels.astype(float) - zeros[..., None]) * scales[..., None]
    error = restored.reshape(6, -1)[:, :columns] - rows
    assert (error[2] == 0).all()
    assert 10 * np.log10((rows**2).sum() / (error**2).sum()) > 19
    assert (restored.reshape(6, -1)[:, columns:] == 0).all()


def test_nibbles_come_low_first() -> None:
    packed = int4._nibbles(np.array([[1, 2, 3]], np.uint8))
    assert packed.tolist() == [[0x21, 0x83]]


def test_int4_serves_matrix_products_only(tmp_path: Path) -> None:
    net = model([make("Relu", ["x"], ["y"])], {})
    with pytest.raises(StageError, match="holds no matrix products") as caught:
        onnx_int4.quantize(model=tree(tmp_path, net), options={}, samples=None, out=tmp_path)
    assert "onnx-int8" in caught.value.fix


def test_what_most_bytes_are_in_decides() -> None:
    nodes = [
        Node(
            operator="MatMulNBits", inputs=["a", "b", "s", "z"], outputs=["c"], numbers={"bits": 4}
        ),
        Node(operator="Cast", inputs=["i"], outputs=["f"]),
        Node(operator="Gather", inputs=["t", "ids"], outputs=["q"]),
        Node(operator="DequantizeLinear", inputs=["q", "qs"], outputs=["r"]),
        Node(operator="Conv", inputs=["x", "k"], outputs=["y"]),
    ]
    constants = {
        "b": ("uint8", 90),
        "s": ("float32", 999),
        "z": ("uint8", 999),
        "i": ("int8", 20),
        "t": ("uint8", 10),
        "qs": ("float32", 999),
        "ids": ("int64", 999),
        "k": ("float32", 80),
    }
    found = audit(Held(constants=constants, nodes=nodes))
    assert found.delivered == "int4"
    assert found.weights == {"int4": 90, "int8": 20, "uint8": 10, "float32": 80}
    refuse_unless(found, "int4", target="it")
    with pytest.raises(StageError, match="it: int8 can keep only 15 % of the weights' bytes"):
        refuse_unless(found, "int8", target="it")
    with pytest.raises(StageError, match="holds no weights"):
        refuse_unless(audit(Held(constants={})), "int8", target="it")


def test_scales_of_an_integer_product_are_no_weights() -> None:
    nodes = [
        Node(operator="DynamicQuantizeLinear", inputs=["x"], outputs=["q", "xs", "xz"]),
        Node(operator="Mul", inputs=["xs", "ws"], outputs=["scales"]),
        Node(operator="MatMulInteger", inputs=["q", "w", "xz", "wz"], outputs=["sums"]),
        Node(operator="Cast", inputs=["sums"], outputs=["wide"]),
        Node(operator="Mul", inputs=["wide", "scales"], outputs=["product"]),
        Node(operator="Mul", inputs=["product", "gain"], outputs=["y"]),
    ]
    constants = {
        "w": ("int8", 96),
        "wz": ("int8", 8),
        "ws": ("float32", 99),
        "gain": ("float32", 32),
    }
    assert audit(Held(constants=constants, nodes=nodes)).weights == {"float32": 32, "int8": 96}


def branching() -> Any:
    """A condition whose branches read a weight of the graph around them and one of their own."""
    info = onnx.helper.make_tensor_value_info

    def branch(name: str, operator: str) -> Any:
        own = onnx.numpy_helper.from_array(weight(64, 64), f"w_{name}")
        nodes = [
            make("MatMul", ["x", "outer"], [f"a_{name}"]),
            make("MatMul", [f"a_{name}", f"w_{name}"], [f"b_{name}"]),
            make(operator, [f"b_{name}", "axis"], [f"c_{name}"]),
        ]
        return onnx.helper.make_graph(nodes, name, [], [info(f"c_{name}", 1, None)], [own])

    nodes = [
        make("ReduceSum", ["x"], ["s"], keepdims=0),
        make("Greater", ["s", "nought"], ["c"]),
        make(
            "If", ["c"], ["y"], then_branch=branch("t", "CumSum"), else_branch=branch("e", "CumSum")
        ),
    ]
    constants = {
        "outer": weight(64, 64),
        "nought": np.float32(0),
        "axis": np.array(1, np.int64),
    }
    return model(nodes, constants)


@pytest.mark.parametrize("io", [None, "float16"])
def test_fp16_reaches_into_control_flow(tmp_path: Path, io: str | None) -> None:
    place, out = tree(tmp_path, branching()), tmp_path / "out"
    out.mkdir()
    onnx_fp16.quantize(model=place, options={"io": io}, samples=None, out=out)
    assert onnx_fp16.precision(artifact=out).weights == {"float16": 3 * 64 * 64 * 2 + 2}
    session = onnx_fp16.open(artifact=out)
    kind = io or "float32"
    assert [tensor.dtype for tensor in (*session.inputs, *session.outputs)] == [kind, kind]
    for sign in (1, -1):
        x = (sign * np.abs(weight(3, 64)) / 8).astype(np.float32)
        wanted = onnx_runtime.open(artifact=place).run({"x": x})["y"]
        given = session.run({"x": x.astype(kind)})["y"].astype(np.float32)
        assert np.abs(given - wanted).max() < 1e-2 * np.abs(wanted).max()


def test_fp16_keeps_what_a_resize_reads_in_float32(tmp_path: Path) -> None:
    nodes = [
        make("Unsqueeze", ["x", "axes"], ["u"]),
        make("Resize", ["u", "", "scales"], ["r"], mode="linear"),
        make("Squeeze", ["r", "axes"], ["y"]),
    ]
    constants = {"axes": np.array([0, 1]), "scales": np.float32([1, 1, 1, 4 / 3])}
    place, out = tree(tmp_path, model(nodes, constants)), tmp_path / "out"
    out.mkdir()
    net = onnx.load(place / "model.onnx")
    net.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, ["n", "wide"]))
    tree(tmp_path, net)
    onnx_fp16.quantize(model=place, options={}, samples=None, out=out)
    x = weight(2, 63)
    net.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 1, ["n", "m"]))
    kept = onnx.load(out / "model.onnx").graph.initializer
    assert [t.data_type for t in kept if "scales" in t.name] == [1]
    assert x.shape == (2, 63)


def test_the_opset_and_ir_version_asked_for_are_delivered(tmp_path: Path) -> None:
    from crosscast.targets import onnx as target

    place, out = tree(tmp_path, tied()), tmp_path / "out"
    out.mkdir()
    for version in (8, 10):
        target.convert(model=place, options={"ir_version": version}, out=out)
        assert onnx.load(out / "model.onnx").ir_version == version
    with pytest.raises(
        StageError, match="IR version 7 was asked for, but opset 18 needs 8"
    ) as caught:
        target.convert(model=place, options={"ir_version": 7}, out=out)
    assert caught.value.fix.startswith("set 'ir_version: 8'")


@pytest.mark.parametrize("level", ["none", "basic", "extended"])
def test_the_ort_file_is_audited_itself(tmp_path: Path, level: str) -> None:
    place, out, small = tree(tmp_path, tied()), tmp_path / "out", tmp_path / "small"
    for folder in (out, small):
        folder.mkdir()
    onnx_int8_dynamic.quantize(model=place, options={}, samples=None, out=small)
    for source, precision in ((place, "fp32"), (small, "int8")):
        ort.convert(model=source, options={"optimization": level}, out=out)
        assert ort.precision(artifact=out).delivered == precision
        assert snr(source, out, np.arange(5), ort) > 80
    content = (out / "model.ort").read_bytes()
    for broken in (content[: len(content) // 2], b"no model at all"):
        (out / "model.ort").write_bytes(broken)
        with pytest.raises(StageError, match=r"model\.ort cannot be read"):
            ort.precision(artifact=out)
