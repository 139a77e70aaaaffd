"""Declared shapes: what a file says, what the config says instead, and when that is no good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.onnx_shapes import (
    contradicts,
    declare_inputs,
    declare_outputs,
    fixed_batch,
    is_redeclared,
    require_rows_apart,
    settled,
    shape_of,
    told_outputs,
)

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def model(inputs: Any = (1, 3, "w"), output: Any = (1, 3, "w")) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, inputs)],
        [helper.make_tensor_value_info("y", 1, output)],
        value_info=[helper.make_tensor_value_info("stale", 1, [7])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def signature(*shape: int | str, output: Any = None) -> Signature:
    outputs = () if output is None else (Tensor(name="y", shape=output, dtype="float32"),)
    dims = {dim: (1, 4) for dim in shape if isinstance(dim, str)}
    inputs = (Tensor(name="x", shape=shape, dtype="float32"),)
    return Signature(inputs=inputs, outputs=outputs, dims=dims)


@pytest.mark.parametrize(
    ("declared", "wanted"),
    [
        (("n", 3, "w"), ("n", 3, "w")),
        ((None, 3, None), ("d_0", 3, "d_2")),
        (("?", "?", "-1"), ("d_0", "d_1", "d_2")),
        ((0, -1, 3), ("d_0", "d_1", 3)),
    ],
)
def test_names_that_mean_nothing_are_told_apart(declared: Any, wanted: Any) -> None:
    value = helper.make_tensor_value_info("x", 1, declared)
    assert shape_of(value.type.tensor_type, "d") == wanted


@pytest.mark.parametrize(
    ("file", "ours", "contradicted", "redeclared"),
    [
        ((1, 3, "w"), (1, 3, "width"), False, False),
        ((1, 3, "w"), (1, 3, 8), False, False),
        ((1, 3, "w"), ("batch", 3, "w"), True, True),
        ((1, 3, "w"), (1, 4, "w"), True, True),
        ((0, 3, -1), ("batch", 3, "w"), False, True),
    ],
)
def test_which_declarations_rule_sizes_out(
    file: Any, ours: Any, contradicted: bool, redeclared: bool
) -> None:
    assert contradicts(model(file), signature(*ours)) is contradicted
    assert is_redeclared(model(file), signature(*ours)) is redeclared


def test_the_graph_declares_what_the_config_does() -> None:
    made = declare_inputs(model(), signature("batch", 3, "w").inputs)
    assert shape_of(made.graph.input[0].type.tensor_type, "d") == ("batch", 3, "w")
    assert not made.graph.value_info
    assert told_outputs(made) == [None]
    declare_outputs(made, signature(1, output=("batch", 3, "w")).outputs)
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.parametrize(
    ("found", "told", "wanted"),
    [
        (("batch", 3, "w"), ("batch", 3, "w"), ("batch", 3, "w")),
        (("batch", 3, 8), ("batch", 3, 8), ("batch", 3, 8)),
        # Inference says 3; that the last is 8 is a chance that two runs had in common.
        (("batch", 3, 8), ("batch", 3, "w"), ("batch", 3, "y_dim2")),
        (("batch", 3, 8), None, ("batch", 3, "y_dim2")),
        (("batch", 3, 8), (7,), ("batch", 3, "y_dim2")),
    ],
)
def test_sizes_that_two_runs_have_in_common_are_open(found: Any, told: Any, wanted: Any) -> None:
    ours = signature("batch", 3, "w", output=found)
    made = declare_inputs(model(), ours.inputs)
    assert settled(made, ours, [told])[0].shape == wanted


def test_without_open_inputs_what_a_run_shows_is_so() -> None:
    ours = signature(1, 3, 8, output=(1, 3, 8))
    assert settled(declare_inputs(model(), ()), ours, [None]) == ours.outputs


def test_the_fixed_batch_is_the_file_s_where_ours_is_open() -> None:
    assert fixed_batch(model(), signature("batch", 3, "w")) == 1
    assert fixed_batch(model(), signature(1, 3, "w")) is None
    assert fixed_batch(model(("n", 3, "w")), signature("batch", 3, "w")) is None


@pytest.mark.parametrize(
    ("computed", "is_apart"),
    [
        (lambda x: x * 2, True),
        (lambda x: x.transpose(1, 0, 2), True),
        (lambda x: np.ones((2, 2), np.float32), True),
        (lambda x: x.reshape(1, -1), False),
        (lambda x: x - x.mean(axis=0), False),
        (lambda x: x[:1], True),
        (lambda x: x[-1:], False),
    ],
)
def test_rows_that_a_batch_mixes_up_are_an_error(computed: Any, is_apart: bool) -> None:
    ours = signature("batch", 3, "w")

    def check() -> None:
        require_rows_apart(
            lambda inputs: [computed(inputs["x"])],
            lambda inputs: {"y": computed(inputs["x"])},
            ours,
            1,
        )

    if is_apart:
        check()
    else:
        with pytest.raises(StageError, match="made for a batch of 1: in a batch of 2"):
            check()
