"""Which targets a config starts with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crosscast.pipeline.errors import ConfigError, StageError
from crosscast.pipeline.init.choice import chosen, fitted, int8_targets
from crosscast.pipeline.init.facts import Facts, Input
from crosscast.pipeline.init.limits import held_by, of_layers, of_onnx


def target(format_: str, precision: str, *, no_runtime: str = "") -> Any:
    accepts = ("exported_program",) if (format_, precision) == ("coreml", "fp16") else ("onnx",)
    return SimpleNamespace(
        format=format_, precision_asked=precision, accepts=accepts, no_runtime=no_runtime
    )


TARGETS: Any = {
    "onnx": target("onnx", "fp32"),
    "onnx-fp16": target("onnx", "fp16"),
    "onnx-int8": target("onnx", "int8"),
    "onnx-int8-dynamic": target("onnx", "int8"),
    "tflite-fp32": target("tflite", "fp32"),
    "tflite-int8": target("tflite", "int8"),
    "tflite-int8-dynamic": target("tflite", "int8"),
    "coreml-fp16": target("coreml", "fp16", no_runtime="no Core ML here"),
    "coreml-int8": target("coreml", "int8", no_runtime="no Core ML here"),
}
IMAGE = Input(name="image", shape=("batch", 3, 8, 8), dtype="float32", range=(0, 1))


def facts(operators: dict[str, int] | None = None, **more: Any) -> Facts:
    counts = {"Conv": 5} if operators is None else operators
    return Facts(source={"onnx": "m.onnx"}, inputs=(IMAGE,), operators=counts, **more)


def names(found: Facts, *asked: str) -> list[str]:
    return list(chosen(found, asked=asked, targets=TARGETS, kinds=("onnx",)).targets)


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        ({"Conv": 5, "Gemm": 1}, "static"),
        ({"Conv": 1, "MatMul": 12, "Attention": 4}, "dynamic"),
        ({"Conv": 9, "Attention": 1}, "dynamic"),
        ({"Conv": 9, "LSTM": 1}, "dynamic"),
        ({"Gemm": 3}, "dynamic"),
        ({"ConvTranspose": 2}, "static"),
        ({}, "dynamic"),
    ],
)
def test_int8_as_the_operators_advise(operators: dict[str, int], expected: str) -> None:
    chosen_, why = int8_targets(facts(operators))
    assert all(("dynamic" in name) == (expected == "dynamic") for name in chosen_)
    assert expected in why


def test_by_default_float_and_int8_of_both_families() -> None:
    assert names(facts()) == ["onnx", "onnx-int8", "tflite-fp32", "tflite-int8"]
    assert names(facts(), "tflite-fp32") == ["tflite-fp32"]


def test_what_the_file_rules_out_is_left_out_with_its_reason() -> None:
    choice = chosen(
        facts(limits={"tflite": "text inputs"}), asked=(), targets=TARGETS, kinds=("onnx",)
    )
    assert list(choice.targets) == ["onnx", "onnx-int8"]
    assert choice.left_out == {"tflite-fp32": "text inputs", "tflite-int8": "text inputs"}


def test_what_is_asked_for_and_ruled_out_is_an_error() -> None:
    found = facts(limits={"tflite": "text inputs", "int8": "no weights"})
    with pytest.raises(ConfigError) as caught:
        names(found, "onnx", "tflite-fp32", "onnx-int8")
    assert caught.value.message.splitlines() == [
        "target 'tflite-fp32' cannot take this model: text inputs",
        "target 'onnx-int8' cannot take this model: no weights",
    ]
    with pytest.raises(ConfigError, match="it starts from exported_program"):
        names(facts(), "coreml-fp16")
    with pytest.raises(ConfigError, match="no target 'onx'; did you mean 'onnx'"):
        names(facts(), "onx")
    with pytest.raises(StageError, match="no target can take this model"):
        names(facts(limits={"tflite": "x", "onnx": "y"}))


def test_targets_get_what_they_need_to_build() -> None:
    choice = chosen(facts(opset=9), asked=("onnx", "onnx-int8"), targets=TARGETS, kinds=("onnx",))
    assert choice.targets == {"onnx": {}, "onnx-int8": {"opset": 13}}
    apple = chosen(facts(), asked=("coreml-fp16",), targets=TARGETS, kinds=("exported_program",))
    assert apple.targets == {"coreml-fp16": {"allow_unverified": "no Core ML here"}}


def test_what_is_quantized_already_ships_as_it_is() -> None:
    onnx = facts(held="int8")
    assert names(onnx) == ["onnx"]
    tflite = Facts(
        source={"tflite": "m.tflite"}, inputs=(IMAGE,), operators={"Conv": 1}, held="int8"
    )
    assert names(tflite) == ["onnx", "tflite-int8"]
    assert names(tflite, "onnx-int8", "onnx-int8-dynamic") == ["onnx-int8", "onnx-int8-dynamic"]
    assert names(tflite, "coreml-int8") == ["coreml-int8"]
    with pytest.raises(ConfigError, match="the file holds int8 weights"):
        names(tflite, "tflite-fp32")
    stored = facts(held="int8", operators={"Conv": 2, "DequantizeLinear": 2})
    assert names(stored, "onnx-fp16") == ["onnx-fp16"]
    computed = facts(held="int8", operators={"Conv": 2, "QuantizeLinear": 2})
    with pytest.raises(ConfigError, match="in fp16 would not compute what it does"):
        names(computed, "onnx-fp16")


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        ({"Conv": 2}, "fp32"),
        ({"Conv": 2, "DequantizeLinear": 6}, "int8"),
        ({"MatMulInteger": 6}, "int8"),
        ({"Gemm": 1, "com.microsoft::MatMulNBits": 6}, "int4"),
        ({"Relu": 1}, "fp32"),
    ],
)
def test_the_precision_that_a_graph_shows(operators: dict[str, int], expected: str) -> None:
    assert held_by(operators) == expected


def test_tflite_has_recurrent_layers_of_fixed_sizes() -> None:
    shape = ("batch", "time", 4)
    x = Input(name="x", shape=shape, dtype="float32", range=(-1, 1))
    found = Facts(
        source={},
        inputs=(x,),
        operators={"GRU": 1},
        dims={"batch": (1, 4), "time": (1, 64)},
    )
    both = chosen(found, asked=("onnx", "tflite-fp32"), targets=TARGETS, kinds=("onnx",))
    fixed = fitted(found, both, TARGETS)
    assert fixed.inputs[0].shape == (1, 16, 4)
    assert not fixed.dims
    assert "batch (1 to 4), time (1 to 64)" in fixed.notes[-1]
    alone = chosen(found, asked=("onnx",), targets=TARGETS, kinds=("onnx",))
    assert fitted(found, alone, TARGETS) == found


@pytest.mark.parametrize(
    ("operators", "inputs", "weights", "expected"),
    [
        ({"Conv": 1}, (IMAGE,), 9, {}),
        ({"Conv": 1, "Loop": 1}, (IMAGE,), 9, {"tflite": "no TFLite equivalent of Loop"}),
        ({"Conv": 1}, (IMAGE,), 3 * 2**30, {"tflite": "3.0 GB of weights, a TFLite file holds 2"}),
        ({"Relu": 1}, (IMAGE,), 9, {"int8": "the model has no convolution, matrix product or "
                                            "recurrent layer"}),
    ],
)  # fmt: skip
def test_what_an_onnx_graph_rules_out(
    operators: dict[str, int], inputs: tuple[Input, ...], weights: int, expected: dict[str, str]
) -> None:
    assert of_onnx(operators, inputs, weights) == expected


def test_what_inputs_and_foreign_operators_rule_out() -> None:
    text = Input(name="text", shape=("batch",), dtype="string")
    deep = Input(name="x", shape=(1, 2, 3, 4, 5, 6), dtype="float32")
    refused = of_layers({"MatMul": 1}, (text,), 9)
    assert refused == dict.fromkeys(("tflite", "coreml", "int8"), "text inputs")
    for family in ("tflite", "coreml"):
        assert "more than 5 dimensions" in of_layers({"MatMul": 1}, (deep,), 9)[family]
    assert "SequenceAt" in of_onnx({"SequenceAt": 1, "Conv": 1}, (IMAGE,), 9)["coreml"]
    assert "coreml" not in of_onnx({"ai.onnx.ml::Scaler": 1, "If": 1}, (IMAGE,), 9)
    trees = of_onnx({"ai.onnx.ml::TreeEnsembleClassifier": 1}, (IMAGE,), 9)
    assert "ai.onnx.ml::TreeEnsembleClassifier" in trees["tflite"]
    assert "int8" in trees
