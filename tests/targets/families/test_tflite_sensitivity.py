"""TFLite files tried in int8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.targets.families import tflite_file as files

pytest.importorskip("ai_edge_litert")

from crosscast.targets.families.tflite_bias import _error, _offset
from crosscast.targets.families.tflite_finish import sign
from crosscast.targets.families.tflite_sensitivity import Trial, answers, hides, rounding, watched


def dense(tmp_path: Path, *, softmax: bool = True) -> tuple[bytes, Path]:
    """A matrix product and a softmax, and samples for it."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.ModelT()
    graph = schema.SubGraphT()
    made.version, made.subgraphs, made.operatorCodes = 3, [graph], []
    made.buffers = [schema.BufferT()]
    graph.tensors, graph.operators = [], []
    editor = files.Editor(made, graph)
    kind = files.tensor_type("float32")
    weights = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    x, w = editor.tensor("x", kind, (2, 16)), editor.tensor("w", kind, (4, 16), weights)
    b = editor.tensor("b", kind, (4,), np.zeros(4, np.float32))
    logits, y = editor.tensor("logits", kind, (2, 4)), editor.tensor("y", kind, (2, 4))
    product = editor.operator("FULLY_CONNECTED", [x, w, b], logits)
    product.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    product.builtinOptions = schema.FullyConnectedOptionsT()
    last = editor.operator("SOFTMAX" if softmax else "RELU", [logits], y)
    if softmax:
        last.builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
        last.builtinOptions = schema.SoftmaxOptionsT()
        last.builtinOptions.beta = 1.0
    graph.operators, graph.inputs, graph.outputs = [product, last], [x], [y]
    sign(made, graph)
    draw = np.random.default_rng(1).normal
    cases = [
        Case(name=str(i), origin="real", arrays={"x": draw(size=(2, 16)).astype(np.float32)})
        for i in range(4)
    ]
    write_cases(iter(cases), out=tmp_path / "samples")
    return files.packed(made), tmp_path / "samples"


def test_what_a_softmax_reads_is_watched(tmp_path: Path) -> None:
    content, _ = dense(tmp_path)
    made = files.parse(content)
    names = [files.text(made.subgraphs[0].tensors[index].name) for index, _ in watched(made)]
    assert names == ["y", "logits"]
    assert [squash for _, squash in watched(made)] == ["", "softmax"]
    assert hides(made)
    assert not hides(files.parse(dense(tmp_path / "relu", softmax=False)[0]))


def test_rounding_costs_more_with_wider_ranges(tmp_path: Path) -> None:
    content, samples = dense(tmp_path)
    trial = Trial(content, samples)
    assert trial.room(content).level == 6.0
    costs = []
    for peak in (4.0, 40.0):
        ranges = {"x": {"min": np.float32([-peak]), "max": np.float32([peak])}}
        costs.append(trial.alone(rounding(content, [0], ranges), [0, 1]).cost)
    assert 0 < costs[0] < costs[1]


def test_outputs_are_rounded_for_their_readers(tmp_path: Path) -> None:
    content, samples = dense(tmp_path)
    ranges = {"logits": {"min": np.float32([-1e3]), "max": np.float32([1e3])}}
    sample = {"x": np.ones((2, 16), np.float32)}
    index = next(iter(files.parse(content).subgraphs[0].outputs))
    (exact,), (coarse,) = (
        next(iter(answers(made, [index], [sample])))
        for made in (files.parse(content), rounding(content, [0], ranges))
    )
    assert np.abs(exact - coarse).max() > 1e-4
    assert json.loads((samples / "cases.json").read_text())


@pytest.mark.parametrize(
    ("name", "weights", "mean"),
    [
        ("FULLY_CONNECTED", (5, 8), 8),
        ("CONV_2D", (6, 3, 3, 8), 8),
        ("CONV_2D", (6, 3, 3, 4), 8),
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 16), 8),
    ],
)
def test_offsets_are_what_constant_channels_gain(
    name: str, weights: tuple[int, ...], mean: int
) -> None:
    draw = np.random.default_rng(4).normal
    values = draw(size=weights).astype(np.float32)
    means = draw(size=mean)
    error = _error(name, values, values)
    assert 0 < np.abs(error).max() < np.abs(values).max() / 60
    found = _offset(name, error, means)
    if name == "FULLY_CONNECTED":
        wanted = error @ means
    elif name == "DEPTHWISE_CONV_2D":
        wanted = error.sum(axis=(0, 1, 2)) * np.repeat(means, 2)
    else:
        groups = mean // weights[-1]
        own = means.reshape(groups, -1)
        wanted = [
            error[out].sum(axis=(0, 1)) @ own[out * groups // weights[0]]
            for out in range(weights[0])
        ]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
