"""Mutations change what a network computes, or say that they do not apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutants.damage import FILES, _flipped
from mutants.graph import Graph
from mutants.saved import opened
from mutants.semantic import SEMANTIC, Facts

pytestmark = pytest.mark.e2e
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NET = """
<ir_version: 8, opset_import: ["" : 18]>
net (float[N, 3, 8, 8] image) => (float[N, 4] scores, float[N, 4] logits) {
    first = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (image, w1, b1)
    six = Clip (first, zero, bound)
    pooled = MaxPool <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (six)
    second = Conv <kernel_shape: ints = [3, 3], strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]> (pooled, w2, b2)
    relu = Relu (second)
    mean = GlobalAveragePool (relu)
    flat = Flatten (mean)
    norm = LayerNormalization <axis: int = -1, epsilon: float = 1e-2> (flat, scale)
    square = Gemm (norm, w3, b3)
    bent = Tanh (square)
    logits = Gemm (bent, w4, b4)
    scores = Softmax <axis: int = -1> (logits)
}
"""  # noqa: E501
SHAPES = {
    "w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "b2": (4,), "w3": (4, 4), "b3": (4,),
    "w4": (4, 4), "b4": (4,), "scale": (4,),
}  # fmt: skip
FACTS = Facts(
    ranges={"image": (-1.0, 1.0)},
    means={"scores": np.full(4, 0.25, np.float32), "logits": np.zeros(4, np.float32)},
)
RECURRENT = {"gates exchanged"}
"""What this network has none of."""


def net() -> Any:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(NET)
    weights = {name: random.normal(0, 1, shape) for name, shape in SHAPES.items()}
    for name, array in {**weights, "zero": 0.0, "bound": 6.0}.items():
        value = np.asarray(array, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


def answers(model: Any) -> list[Any]:
    image = np.random.default_rng(1).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32) * 4
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return list(session.run(["scores", "logits"], {"image": image}))


@pytest.mark.parametrize("name", sorted(SEMANTIC.keys() - RECURRENT))
def test_a_mutation_gives_a_network_that_runs_and_computes_something_else(name: str) -> None:
    model = net()
    assert SEMANTIC[name](Graph(model), FACTS)
    before, after = answers(net()), answers(model)
    assert [array.shape for array in after] == [array.shape for array in before]
    assert not all(np.allclose(*pair, atol=1e-4) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("name", SEMANTIC)
def test_one_that_does_not_apply_says_so_and_changes_nothing(name: str) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> n (int64[N] x) => (int64[N] y) { y = Neg (x) }'
    model = onnx.parser.parse_model(text)
    before = model.SerializeToString()
    assert SEMANTIC[name](Graph(model), FACTS) is False
    assert model.SerializeToString() == before


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    onnx.save(net(), tmp_path / "model.onnx")
    return tmp_path


@pytest.mark.parametrize("bit", [0, 22, 30, 31])
def test_one_bit_of_one_weight_is_flipped(saved: Path, tmp_path: Path, bit: int) -> None:
    file = opened(saved)
    before = {name: array.copy() for name, array in file.weights.items()}
    assert _flipped("float32", bit)(file, np.random.default_rng(0))
    out = tmp_path / "out"
    out.mkdir()
    file.write(out)
    after = opened(out).weights
    changed = [before[name].view("u4") ^ after[name].view("u4") for name in before]
    assert [int(each) for array in changed for each in array[array != 0]] == [1 << bit]


@pytest.mark.parametrize("name", FILES)
def test_damage_changes_what_is_stored(saved: Path, tmp_path: Path, name: str) -> None:
    file = opened(saved)
    out = tmp_path / "out"
    out.mkdir()
    assert FILES[name](file, np.random.default_rng(0))
    file.write(out)
    pairs = zip(opened(saved).weights.values(), opened(out).weights.values(), strict=True)
    assert not all(np.array_equal(*pair) for pair in pairs)
