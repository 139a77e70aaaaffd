"""ONNX models tried in int8, and what stays in float by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.targets.base import ADVICE, KEPT
from crosscast.targets.families import onnx_dynamic, onnx_int8
from crosscast.targets.families.onnx_bias import means
from crosscast.targets.families.onnx_calibrate import Measured
from crosscast.targets.families.onnx_sensitivity import (
    GATE,
    Costs,
    Trial,
    gated_activations,
    gated_weights,
    hides,
    size_of,
    watched,
)
from crosscast.targets.families.search import Kept, Search

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def network(weights: dict[str, Any], nodes: list[Any], shape: list[Any], out: list[Any]) -> Any:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", 1, shape)],
        [info("y", 1, out)],
        [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def classifier() -> Any:
    """Two layers and a softmax, all of whose answers are sure."""
    draw = np.random.default_rng(0).normal
    make = onnx.helper.make_node
    weights = {"a": draw(size=(16, 16)), "b": draw(size=(16, 4))}
    nodes = [
        make("MatMul", ["x", "a"], ["h"], "first"),
        make("Relu", ["h"], ["r"], "relu"),
        make("MatMul", ["r", "b"], ["l"], "second"),
        make("Softmax", ["l"], ["s"], "softmax"),
        make("Reshape", ["s", "flat"], ["y"], "flatten"),
    ]
    made = network(weights, nodes, ["n", 16], ["m"])
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "flat"))
    return made


def rows(count: int = 6, width: int = 16) -> list[dict[str, Any]]:
    draw = np.random.default_rng(1).normal
    return [{"x": np.float32(draw(size=(2, width)))} for _ in range(count)]


def run(model: Any, sample: dict[str, Any], name: str) -> Any:
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    if name not in [value.name for value in asked.graph.output]:
        asked.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(
        asked.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run([name], sample)[0]


def test_what_a_softmax_reads_is_watched_behind_a_reshape() -> None:
    assert [(one.name, one.squash) for one in watched(classifier())] == [
        ("y", ""),
        ("l", "softmax"),
    ]


def test_answers_hide_what_is_lost_behind_a_softmax_or_a_mean_of_them() -> None:
    model = classifier()
    assert hides(model)
    model.graph.node[-1].op_type = "ReduceMean"
    assert hides(model)
    assert len(watched(model)) == 1  # whose input is not judged by where a softmax is steepest
    del model.graph.node[-2:]
    model.graph.output[0].name = "l"
    assert not hides(model)


def test_gates_round_what_they_are_open_for() -> None:
    model, found = classifier(), {"x": Measured(-4.0, 4.0, 1.0), "r": Measured(0.0, 30.0, 9.0)}
    gated, tensors = gated_activations(model, [("x",), ("r",)], found, "uint8")
    sample = rows()[0]
    exact = run(model, sample, "s")
    shut = run(gated, {**sample, GATE: np.float32([0, 0])}, "s")
    opened = run(gated, {**sample, GATE: np.float32([1, 0])}, "s")
    np.testing.assert_allclose(shut, exact, rtol=1e-5, atol=1e-6)
    assert 0 < np.abs(opened - exact).max() < 0.2
    assert [one.name for one in tensors] == ["y", "l"]


def test_gates_exchange_weights() -> None:
    model = classifier()
    gated, _ = gated_weights(model, [("a",)], {"a": np.zeros((16, 16), np.float32)})
    sample = rows()[0]
    shut = run(gated, {**sample, GATE: np.float32([0])}, "s")
    np.testing.assert_allclose(shut, run(model, sample, "s"), rtol=1e-5)
    opened = run(gated, {**sample, GATE: np.float32([1])}, "s")
    np.testing.assert_allclose(opened, np.full((2, 4), 0.25))


def scaled(factor: float) -> Any:
    """The classifier with another first weight: an error that grows with the factor."""
    made = classifier()
    weight = made.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "a"))
    return made


@pytest.mark.parametrize("harmful", ["x", "r"])
def test_only_what_harms_stays_in_float(harmful: str) -> None:
    model = classifier()
    tried: list[Kept] = []

    def quantized(kept: Kept, every: bool) -> Any:
        tried.append(kept)
        return model if harmful in kept.names else scaled(3.0)

    ranges = {name: Measured(-9.0, 9.0, 1.0) for name in "xr"}
    ranges[harmful] = Measured(-900.0, 900.0, 1.0)
    trial = Trial(model, lambda: iter(rows()))
    costs = Costs(
        trial,
        activations=["x", "r"],
        gates=lambda groups: gated_activations(model, groups, ranges, "uint8"),
        weights=lambda: (model, {}),
    )
    search = Search(
        quantized=quantized,
        room=trial.room,
        size=size_of,
        operators=lambda kept: 2 - len(kept.names),
        candidates=costs.candidates,
        measured=costs.measured,
        hides=trial.hides,
    )
    result, found = search.found()
    assert result is model
    assert found.kept == Kept(frozenset({harmful}), corrected=True)
    assert found.rooms[0].worst < 0 < found.rooms[1].worst
    assert tried[0] == Kept()


def test_weights_are_measured_beside_activations() -> None:
    model = classifier()
    found = {"x": Measured(-4.0, 4.0, 1.0), "r": Measured(-900.0, 900.0, 1.0)}
    trial = Trial(model, lambda: iter(rows()))
    costs = Costs(
        trial,
        activations=["x", "r"],
        gates=lambda groups: gated_activations(model, groups, found, "uint8"),
        weights=lambda: (model, {"a": np.zeros((16, 16), np.float32)}),
    )
    assert costs.candidates().shares == {"a": 1.0}
    order = [("a",), ("x",), ("r",)]
    weight, fine, coarse = costs.measured(order, [0, 1])
    assert max(weight.worst, coarse.worst) < fine.worst
    assert costs.measured(order[::-1], [0, 1]) == [coarse, fine, weight]


def place(tmp_path: Path, model: Any, samples: list[dict[str, Any]]) -> tuple[Path, Path]:
    tree, given = tmp_path / "model", tmp_path / "samples"
    tree.mkdir()
    onnx.save(model, tree / "model.onnx")
    cases = [Case(name=str(i), origin="real", arrays=one) for i, one in enumerate(samples)]
    write_cases(iter(cases), out=given)
    return tree, given


def sieve() -> Any:
    """A convolution of sixteen channels, one of them a thousand times as large as the others, and
    of no consequence: int8 has no levels for these.
    """
    make = onnx.helper.make_node
    kernel = np.random.default_rng(2).normal(size=(32, 16, 1, 1))
    kernel[:, 0] = 0.0
    nodes = [
        make("Mul", ["x", "gain"], ["m"], "gain"),
        make("Conv", ["m", "w", "bias"], ["y"], "convolution"),
    ]
    gain = np.ones((1, 16, 1, 1))
    gain[0, 0] = 1000
    weights = {"gain": gain, "w": kernel, "bias": np.zeros(32)}
    return network(weights, nodes, [1, 16, 8, 8], [1, 32, 8, 8])


def images(count: int = 6) -> list[dict[str, Any]]:
    draw = np.random.default_rng(3).normal
    return [{"x": np.float32(draw(size=(1, 16, 8, 8)))} for _ in range(count)]


@pytest.mark.parametrize("quantize", [onnx_int8.quantize, onnx_dynamic.quantize])
def test_what_was_kept_is_told(tmp_path: Path, quantize: Any) -> None:
    tree, samples = place(tmp_path, sieve(), images())
    out = tmp_path / "out"
    out.mkdir()
    quantize(model=tree, options={}, samples=samples, out=out)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for sample in images():
        wanted = run(sieve(), sample, "y")
        given = session.run(None, sample)[0]
        assert 20 * np.log10(wanted.std() / (given - wanted).std()) > 20
    notes = out / "notes.json"
    kept = json.loads(notes.read_text())[KEPT] if notes.exists() else {}
    if quantize is onnx_int8.quantize:
        assert kept["operators"].keys() == {"convolution"}
        assert kept["room_db"]["int8"] < 0 < kept["room_db"]["delivered"]
        assert kept["bytes"]["delivered"] == (out / "model.onnx").stat().st_size


def test_means_are_those_of_channels() -> None:
    found = means(sieve(), lambda: iter(images()))
    wanted = np.mean([one["x"].mean(axis=(0, 2, 3)) for one in images()], axis=0)
    np.testing.assert_allclose(found["m"], wanted * [1000, *[1] * 15], rtol=1e-4)


def tower() -> Any:
    """Six convolutions; one channel between the third and the fourth is 99 times as large as the
    others, and of no consequence.
    """
    draw = np.random.default_rng(5).normal
    make = onnx.helper.make_node
    kernels = [draw(size=(16, 16, 3, 3)) / 12 for _ in range(6)]
    kernels[2][0] *= 99
    kernels[3][:, 0] = 0
    names = ["x", "a", "b", "loud", "c", "d", "y"]
    nodes = [
        make("Conv", [names[at], f"w{at}"], [names[at + 1]], f"conv{at}", pads=[1, 1, 1, 1])
        for at in range(6)
    ]
    weights = {f"w{at}": kernel for at, kernel in enumerate(kernels)}
    return network(weights, nodes, [1, 16, 8, 8], [1, 16, 8, 8])


def delivered(tmp_path: Path, model: Any, **given: Any) -> tuple[float, dict[str, Any]]:
    """The worst signal-to-noise ratio of the quantized model in dB, and its notes."""
    tree, samples = place(tmp_path, model, images(24))
    out = tmp_path / "out"
    out.mkdir()
    given = {"options": {}} | given
    onnx_int8.quantize(model=tree, samples=samples, out=out, **given)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    ratios = []
    for sample in images(24):
        wanted = run(model, sample, "y")
        noise = session.run(None, sample)[0] - wanted
        ratios.append(float(20 * np.log10(np.linalg.norm(wanted) / np.linalg.norm(noise))))
    return min(ratios), json.loads((out / "notes.json").read_text())


def test_the_planted_layer_and_no_other_stays_in_float(tmp_path: Path) -> None:
    snr_db, notes = delivered(tmp_path, tower())
    assert snr_db > 17
    assert set(notes[KEPT]["operators"]) == {"conv2", "conv3"}
    assert all("'loud' alone" in why for why in notes[KEPT]["operators"].values())


def test_nothing_stays_in_float_where_that_is_asked_for(tmp_path: Path) -> None:
    snr_db, notes = delivered(tmp_path, tower(), options={"on_mismatch": "fail"})
    assert snr_db < 17
    assert KEPT not in notes
    assert "on_mismatch: keep-float" in notes[ADVICE]
    graph = onnx.load(tmp_path / "out/model.onnx").graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 7


def test_a_targets_own_limits_are_kept(tmp_path: Path) -> None:
    limits = {"min_snr_db": 30.0, "reason": "a test"}
    snr_db, notes = delivered(tmp_path, tower(), parity=limits)
    assert snr_db > 30
    assert set(notes[KEPT]["operators"]) > {"conv2", "conv3"}


def test_all_operators_are_quantized_where_that_is_asked_for(tmp_path: Path) -> None:
    """The sum too, and the product of two activations."""
    make = onnx.helper.make_node
    nodes = [
        make("MatMul", ["x", "w"], ["h"], "first"),
        make("MatMul", ["h", "x"], ["z"], "product"),
        make("Add", ["z", "x"], ["y"], "sum"),
    ]
    weight = np.random.default_rng(0).normal(size=(16, 16))
    model = network({"w": weight}, nodes, [1, 1, 16, 16], [1, 1, 16, 16])
    draw = np.random.default_rng(1).normal
    rows = [{"x": np.float32(draw(size=(1, 1, 16, 16)))} for _ in range(4)]
    tree, samples = place(tmp_path, model, rows)
    counts = []
    for operators in (None, "all"):
        out = tmp_path / str(operators)
        out.mkdir()
        options = {"operators": operators, "on_mismatch": "fail"}
        onnx_int8.quantize(model=tree, options=options, samples=samples, out=out)
        graph = onnx.load(out / "model.onnx").graph
        makers = {name: node.op_type for node in graph.node for name in node.output}
        read = {node.name: [makers.get(each) for each in node.input] for node in graph.node}
        counts.append(
            [read[name].count("DequantizeLinear") for name in ("first", "product", "sum")]
        )
    assert counts[0][1:] == [0, 0]
    assert counts[1] == [2, 2, 2]
