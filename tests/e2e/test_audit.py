"""The audit of real artifacts against counts that are not its own: ONNX Runtime's, LiteRT's and
coremltools'; and artifacts that are not what they are called.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from cli import CONFIG, crosscast
from onnx import numpy_helper
from verdicts import judged

from crosscast.pipeline.parity.gains import problems
from crosscast.targets import TARGETS, coreml_int8, onnx_int8_dynamic, ort, tflite_int8_dynamic
from crosscast.targets.base import Precision
from crosscast.targets.families import coreml, coreml_quantize, tflite_file
from crosscast.targets.families.coreml_audit import LEVELS, Audited

# coremltools warns of its own doings, as of folders that it leaves to the collector
pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]


def forms(found: Precision) -> dict[str, int]:
    assert found.problems == ()
    return dict(Counter(entry.form for entry in found.operators))


def told(artifact: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((artifact / "manifest.json").read_text())["precision"]
    return held


def optimised(artifact: Path, tmp_path: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a file when it loads it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        artifact / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    graph = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def filters(artifact: Path) -> Counter[tuple[str, str]]:
    """The dtypes of what convolutions and products read, activations and weights, by LiteRT."""
    interpreter = Interpreter(str(artifact / "model.tflite"))
    tensors = {each["index"]: each["dtype"] for each in interpreter.get_tensor_details()}
    return Counter(
        (np.dtype(tensors[each["inputs"][0]]).name, np.dtype(tensors[each["inputs"][1]]).name)
        for each in interpreter._get_ops_details()
        if each["op_name"].removeprefix("DEPTHWISE_") in ("CONV_2D", "FULLY_CONNECTED")
    )


def test_onnx_operators_are_what_the_runtime_makes_of_them(built: Path, tmp_path: Path) -> None:
    made = optimised(built / "onnx-int8", tmp_path)
    assert told(built / "onnx-int8")["ops"] == {"int8": made["QLinearConv"] + made["QGemm"]}
    assert made["QLinearConv"] == 49
    assert told(built / "onnx-fp16")["ops"] == {"fp16": 50}
    assert told(built / "onnx")["ops"] == {"fp32": 50}
    ort.convert(model=built / "onnx-int8", options={}, out=tmp_path)
    assert forms(ort.precision(artifact=tmp_path)) == {"int8": 50}


def test_onnx_weights_alone(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    onnx_int8_dynamic.quantize(model=built / "onnx", options={}, samples=None, out=out)
    made = optimised(out, tmp_path)
    found = forms(onnx_int8_dynamic.precision(artifact=out))
    assert found == {
        "int8 weights": sum(made[each] for each in ("Conv", "FusedConv", "MatMul", "Gemm"))
    }


def test_tflite_operators_are_what_litert_reads(built: Path, tmp_path: Path) -> None:
    assert filters(built / "tflite-int8") == {("int8", "int8"): 50}
    assert told(built / "tflite-int8")["ops"] == {"int8": 50}
    assert told(built / "tflite-fp16")["ops"] == {"fp16 weights": 50}
    assert told(built / "tflite-fp32")["ops"] == {"fp32": 50}
    out = tmp_path / "out"
    tflite_int8_dynamic.quantize(model=built / "tflite-fp32", options={}, samples=None, out=out)
    assert filters(out) == {("float32", "int8"): 50}
    assert forms(tflite_int8_dynamic.precision(artifact=out)) == {"int8": 50}


def test_core_ml_operators_are_what_coremltools_counts(built: Path, tmp_path: Path) -> None:
    import coremltools

    assert told(built / "coreml-fp16")["ops"] == {"fp16": 50}
    made = tmp_path / "int8"
    coreml_quantize.to_int8(model=built / "coreml-fp16", options={}, samples=None, out=made)
    spec = coremltools.utils.load_spec(str(made / "model.mlpackage"))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    counted = Counter(operation.type for operation in block.operations)
    held = TARGETS["coreml-int8"].precision(artifact=made)
    stored = counted["constexpr_affine_dequantize"]
    assert 0 < stored < 50
    assert forms(held) == {"int8 weights": stored, "fp16": 50 - stored}
    # Depthwise filters and the smallest: half of the layers, and few bytes.
    wide = [entry for entry in held.operators if entry.fell_back("int8")]
    assert len(wide) == 50 - stored
    assert sum(entry.size for entry in wide) < 0.1 * sum(e.size for e in held.operators)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_core_ml_weights_that_are_no_numbers(built: Path, tmp_path: Path, value: float) -> None:
    made = tmp_path / "damaged"
    shutil.copytree(built / "coreml-fp16", made)
    audited = Audited(made)
    layer = next(it for it in audited.operations if it.type == "conv")
    weights = audited.value(layer, "weight").copy()
    weights[3, 0, 1, 2] = value
    audited.write(layer, "weight", weights)
    (line,) = TARGETS["coreml-fp16"].precision(artifact=made).problems
    assert f"holds {value:g} at (3, 0, 1, 2)" in line


def test_a_scale_of_core_ml_that_is_wrong(built: Path, tmp_path: Path) -> None:
    floats, made = built / "coreml-fp16", tmp_path / "int8"
    coreml_quantize.to_int8(model=floats, options={}, samples=None, out=made)
    weights = coreml_int8.weights
    assert sum(it.steps is not None for it in weights(artifact=made)) > 20
    assert list(problems(weights(artifact=made), weights(artifact=floats))) == []
    audited = Audited(made)
    layer = next(it for it in audited.operations if it.type in LEVELS)
    audited.write(layer, "scale", audited.value(layer, "scale") * np.float16(1.25))
    (line,) = problems(weights(artifact=made), weights(artifact=floats))
    assert "is 1.25 times as large" in line


def test_a_transformer_in_four_bits(tmp_path: Path, cache: Path) -> None:
    config = CONFIG.parent / "minilm.yaml"
    done = crosscast("build", config, "-t", "onnx-int4", "--out", tmp_path, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = tmp_path / "all-minilm-l6-v2/2.0.0/onnx-int4"
    graph = onnx.load(artifact / "model.onnx").graph
    counted = Counter(node.op_type for node in graph.node)
    # Six layers of six products with weights, and two of activations.
    assert (counted["MatMulNBits"], counted["MatMul"]) == (36, 12)
    assert told(artifact)["ops"] == {"fp32": 12, "int4 weights": 36}
    assert told(artifact)["fell_back"] == []
    shown = crosscast("show", artifact, cache=cache).stdout
    assert "compute: 12 fp32, 36 int4 weights" in shown.splitlines()


def changed(built: Path, tmp_path: Path, change: Callable[[Any], None]) -> Path:
    """The int8 ONNX artifact with its graph changed."""
    artifact = tmp_path / "changed"
    shutil.copytree(built / "onnx-int8", artifact)
    model = onnx.load(artifact / "model.onnx")
    change(model.graph)
    onnx.save(model, artifact / "model.onnx")
    return artifact


def weights_of(graph: Any) -> list[tuple[Any, Any, Any, Any]]:
    """Each DequantizeLinear of int8 weights with its three constants."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    return [
        (node, *(held[name] for name in node.input))
        for node in pairs
        if node.input[0] in held and held[node.input[0]].data_type == onnx.TensorProto.INT8
    ]


def half_in_float(graph: Any) -> None:
    """Every other layer's weights become the floats that they stand for."""
    for node, levels, scale, _ in weights_of(graph)[::2]:
        values = numpy_helper.to_array(levels).astype(np.float32)
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        given = values * numpy_helper.to_array(scale).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(given, node.output[0]))
        graph.node.remove(node)


def with_scale(value: float) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        _, _, scale, _ = weights_of(graph)[3]
        values = numpy_helper.to_array(scale).copy()
        values[0] = value
        scale.CopyFrom(numpy_helper.from_array(values, scale.name))

    return change


def test_layers_that_were_silently_left_in_float_are_named(built: Path, tmp_path: Path) -> None:
    verdict = judged(built / "onnx-int8", changed(built, tmp_path, half_in_float), "onnx-int8")
    assert verdict.status == "failed"
    line = verdict.reason.splitlines()[0]
    assert line.startswith("int8 was asked for, fp32 was delivered (weights: float32 ")
    largest = verdict.audit.fell_back[0]
    assert f"'{largest.name}' ({largest.op}, fp32, {100 * largest.share:.0f} %)" in line
    assert line.endswith(" and 20 more")
    assert len(verdict.audit.fell_back) == 25
    assert verdict.audit.ops == {"fp32": 25, "int8": 25}


@pytest.mark.parametrize(("value", "said"), [(0.0, "0"), (float("nan"), "nan"), (-1.0, "-1")])
def test_scales_that_are_none_fail(built: Path, tmp_path: Path, value: float, said: str) -> None:
    verdict = judged(built / "onnx-int8", changed(built, tmp_path, with_scale(value)), "onnx-int8")
    assert verdict.status == "failed"
    assert f"has the scale {said}, which is no step's size" in verdict.reason.splitlines()[0]


def test_a_zero_point_out_of_range_fails(built: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "changed"
    shutil.copytree(built / "tflite-int8", artifact)
    made = tflite_file.read(artifact / "model.tflite")
    tensors = made.subgraphs[0].tensors
    held = next(each for each in tensors if tflite_file.numpy_name(each.type) == "int8")
    held.quantization.zeroPoint = [300]
    tflite_file.write(made, artifact / "model.tflite")
    verdict = judged(built / "tflite-int8", artifact, "tflite-int8")
    assert verdict.status == "failed"
    assert "has the zero point 300, out of -128 to 127 of int8" in verdict.reason.splitlines()[0]


@pytest.mark.parametrize("system", ["iOS16", "iOS18"])
def test_channels_near_zero_get_a_step(tmp_path: Path, system: str) -> None:
    import coremltools
    from coremltools.converters.mil import Builder

    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    weight[3], weight[5] = 0, weight[5] * 1e-7
    target = coremltools.target[system]

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 32))], opset_version=target)
    def product(x: Any) -> Any:
        return Builder.linear(x=x, weight=weight, name="y")

    half = tmp_path / "half"
    half.mkdir()
    coremltools.convert(product, minimum_deployment_target=target).save(
        str(half / "model.mlpackage")
    )
    made = tmp_path / "int8"
    coreml_quantize.to_int8(model=half, options={}, samples=None, out=made)
    assert forms(TARGETS["coreml-int8"].precision(artifact=made)) == {"int8 weights": 1}
    x = {"x": np.ones((1, 32), np.float32)}
    wanted, found = (coreml.evaluated(artifact=tree).run(x)["y"][0] for tree in (half, made))
    assert (found[[3, 5]] == 0).all()
    np.testing.assert_allclose(found, wanted, atol=0.01 * np.abs(wanted).max())
