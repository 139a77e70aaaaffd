"""What is done to a graph, and to samples, before they are quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.targets.families import onnx_calibrate, onnx_int8, onnx_pairs, onnx_weights

onnx = pytest.importorskip("onnx")


def tied(opset: int = 18) -> Any:
    """A weight that two nameless Gemm read by rows and one by columns."""
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "w"], ["h"], transB=1),
        onnx.helper.make_node("Gemm", ["h", "w"], ["i"], transB=1),
        onnx.helper.make_node("Gemm", ["i", "w"], ["y"]),
    ]
    shape = ["batch", 3]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, shape)],
        [onnx.helper.make_tensor_value_info("y", 1, shape)],
        [onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")],
        value_info=[onnx.helper.make_tensor_value_info("h", 1, [7, 7])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def test_preparation_names_nodes_splits_weights_and_forgets_shapes() -> None:
    model = tied()
    onnx_weights.prepare(model)
    assert [node.name for node in model.graph.node] == ["Gemm_0", "Gemm_1", "Gemm_2"]
    assert [node.input[1] for node in model.graph.node] == ["w", "w", "w_of_Gemm_2"]
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert set(values) == {"w", "w_of_Gemm_2"}
    np.testing.assert_array_equal(values["w"], values["w_of_Gemm_2"])
    assert not model.graph.value_info


def test_exclude_takes_names_and_operators_and_refuses_what_is_not_there() -> None:
    model = tied()
    onnx_weights.prepare(model)
    assert onnx_int8.excluded_nodes(model, ("Gemm_1",), target="onnx-int8") == ["Gemm_1"]
    assert onnx_int8.excluded_nodes(model, ("Gemm",), target="onnx-int8") == [
        "Gemm_0",
        "Gemm_1",
        "Gemm_2",
    ]
    with pytest.raises(StageError, match=r"'Gem_1' is neither .*; did you mean 'Gemm_1'\?"):
        onnx_int8.excluded_nodes(model, ("Gem_1",), target="onnx-int8")


@pytest.mark.parametrize(
    ("opset", "per_channel", "message"),
    [
        (12, True, "per-channel scales need opset 13 or later; the model has 12"),
        (9, False, "quantization needs opset 10 or later; the model has 9"),
        (12, False, ""),
        (13, True, ""),
    ],
)
def test_the_opset_must_have_what_is_asked_for(opset: int, per_channel: bool, message: str) -> None:
    chosen = onnx_int8.StaticOptions(per_channel=per_channel)
    if not message:
        assert onnx_int8._raised(tied(opset), chosen, asked=True) == tied(opset)
        return
    with pytest.raises(StageError, match=message) as caught:
        onnx_int8._raised(tied(opset), chosen, asked=True)
    assert caught.value.fix.startswith("set 'opset: ")


def test_calibration_samples_are_needed(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="needs calibration samples"):
        onnx_int8.quantize(model=tmp_path, options={}, samples=None, out=tmp_path)


def write_samples(tree: Path, arrays: list[dict[str, Any]]) -> Path:
    write_cases(
        (Case(name=str(i), origin="real", arrays=one) for i, one in enumerate(arrays)), out=tree
    )
    return tree


def test_samples_are_read_one_at_a_time_and_as_often_as_asked(tmp_path: Path) -> None:
    value = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    write_samples(tmp_path, [{"image": value, "unused": value}])
    read = onnx_calibrate.sample_reader(samples=tmp_path, names={"image"})
    for _ in range(2):
        (sample,) = list(read())
        assert set(sample) == {"image"}
        assert sample["image"].shape == (1, 3, 4, 5)


def test_dynamic_int8_is_another_target() -> None:
    with pytest.raises(ValueError, match="dynamic int8 is the target onnx-int8-dynamic"):
        onnx_int8.StaticOptions(mode="dynamic")  # type: ignore[arg-type]


def test_operators_that_nobody_quantizes_are_refused() -> None:
    assert onnx_int8._operators(onnx_int8.StaticOptions()) == onnx_int8.OPERATORS
    assert onnx_int8._operators(onnx_int8.StaticOptions(operators=("Conv",))) == ("Conv",)
    with pytest.raises(StageError, match=r"'Convv' is not .*; did you mean 'Conv'\?"):
        onnx_int8._operators(onnx_int8.StaticOptions(operators=("Convv",)))


def residual() -> Any:
    """A product between two sums that read what it reads, and a constant of infinity beside it."""
    make = onnx.helper.make_node
    nodes = [
        make("Relu", ["x"], ["h"], "relu"),
        make("MatMul", ["h", "w"], ["p"], "product"),
        make("Add", ["h", "p"], ["y"], "sum"),
        make("Div", ["h", "zero"], ["never"], "divide"),
        make("MatMul", ["never", "w"], ["z"], "endless"),
    ]
    info = onnx.helper.make_tensor_value_info
    weights = {"w": np.eye(4, dtype=np.float32), "zero": np.zeros(1, np.float32)}
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", 1, ["n", 4])],
        [info("y", 1, ["n", 4]), info("z", 1, ["n", 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )


def test_what_is_read_in_float_as_well_stays_exact(tmp_path: Path) -> None:
    model = residual()
    samples = [{"x": np.float32([[1, 2, 3, 4]])}]
    read = onnx_calibrate.sample_reader(samples=write_samples(tmp_path, samples), names={"x"})
    result = onnx_int8._Static(lambda: model, read, onnx_int8.StaticOptions()).all_in_int8()
    nodes = {node.name: node for node in result.graph.node}
    assert list(nodes["sum"].input) == ["h", "p"]
    assert nodes["product"].input[0].endswith("DequantizeLinear_Output")
    assert nodes["endless"].input[0] == "never"  # which is infinite: int8 has no range for it
    assert not any(node.op_type == "Identity" for node in result.graph.node)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_ranges_do_not_depend_on_how_samples_are_split(tmp_path: Path, method: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    found = []
    for parts in (1, 64):
        tree = tmp_path / str(parts)
        write_samples(tree, [{"x": part} for part in np.split(rows, parts)])
        read = onnx_calibrate.sample_reader(samples=tree, names={"x"})
        found.append(onnx_calibrate.measured(residual(), ["h"], samples=read, method=method)["h"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert 0.0 <= found[0].low < 0.1 < found[0].high <= rows.max()


def test_outliers_cost_the_signal_that_is_told() -> None:
    even = onnx_calibrate.Measured(low=-1.0, high=1.0, power=1 / 3)
    spiked = onnx_calibrate.Measured(low=-1.0, high=100.0, power=1 / 3)
    assert even.snr_db == pytest.approx(48.1, abs=0.1)
    assert spiked.snr_db < onnx_pairs.FRAGILE_DB
    assert onnx_calibrate.Measured(0.0, 0.0, 0.0).snr_db == float("inf")


def test_entropy_cuts_off_a_lone_extreme() -> None:
    counts = np.zeros(onnx_calibrate.BINS, np.int64)
    counts[:512] = 1e6 * np.exp(-((np.arange(512) / 150) ** 2))
    counts[-1] = 1
    low, high = onnx_calibrate._by_entropy(counts, 0.0, 1.0)
    assert low == 0.0
    assert 0.1 < high < 0.5
    assert onnx_calibrate._by_percentile(counts, 0.0, 1.0)[1] < 0.3
