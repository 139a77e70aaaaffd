from __future__ import annotations

from types import SimpleNamespace

import pytest
from onnx import helper

from crosscast.targets import tflite_fp16, tflite_fp32, tflite_int8, tflite_int8_dynamic
from crosscast.targets.families import tflite, tflite_usage

MANIFEST = {
    "model": "net",
    "version": "1.2.0",
    "target": "tflite-fp32",
    "files": [{"path": "model.tflite"}],
    "inputs": [
        {"name": "scale", "shape": [], "dtype": "float32", "layout": None},
        {"name": "image", "shape": ["batch", 3, 4, 5], "dtype": "float32", "layout": "nchw"},
    ],
    "outputs": [{"name": "ids", "shape": ["batch", 7], "dtype": "int64", "layout": None}],
}


def test_the_targets_that_quantize_convert_in_one_step() -> None:
    assert tflite_fp16.convert is tflite_int8.convert is tflite_int8_dynamic.convert
    assert tflite_fp32.toolchain == tflite_fp16.toolchain == tflite_int8.toolchain
    assert tflite_fp32.toolchain == tflite_int8_dynamic.toolchain
    overlay = tflite_fp32.toolchain["onnx"].overlay
    assert overlay
    assert overlay.exists()


def test_no_route_needs_the_framework_of_another() -> None:
    for kind, foreign in (("onnx", "tensorflow"), ("saved_model", "onnx"), ("tflite", "onnx")):
        assert foreign not in tflite_fp32.toolchain[kind].distributions


@pytest.mark.parametrize(
    ("error", "log", "said"),
    [
        (
            NotImplementedError("validation failed: op=Elu node=/e/Elu reason_code=x message=y"),
            "",
            "operator Elu (layer /e/Elu) has no TFLite equivalent",
        ),
        (
            SystemExit(1),
            "100%|####| 3/3 [00:00<00:00, 5.1it/s]\n\x1b[31mERROR:\x1b[0m node '/a/Elu' is not\n",
            "onnx2tf could not convert the model at operator Elu (layer /a/Elu): "
            "ERROR: node '/a/Elu' is not",
        ),
        (KeyError("q"), "", "onnx2tf could not convert the model: KeyError: 'q'"),
    ],
)
def test_what_onnx2tf_failed_at_is_named(error: BaseException, log: str, said: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="/a"),
        helper.make_node("Elu", ["r"], ["y"], name="/a/Elu"),
    ]
    model = SimpleNamespace(graph=SimpleNamespace(node=nodes))
    assert tflite._explained(error, log, model).message.startswith(said)


@pytest.mark.parametrize(
    ("said", "operator"),
    [
        (
            "pass_id=layout.x problems=['duplicate_producer:y:[2, 3]']",
            " at operator Elu (layer /e)",
        ),
        ("problems=['missing_input_tensor:4:r']", " at operator Relu (layer /a)"),
        ("Gather axis out of bounds. op=/e axis=3", " at operator Elu (layer /e)"),
        ("problems=['duplicate_producer:z:[2, 3]']", ""),
    ],
)
def test_the_first_cause_of_a_failure_is_told(said: str, operator: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="/a"),
        helper.make_node("Elu", ["r"], ["y"], name="/e"),
    ]
    model = SimpleNamespace(graph=SimpleNamespace(node=nodes))
    error = RuntimeError("flatbuffer_direct fast path failed.")
    error.__cause__ = ValueError(said)
    message = tflite._explained(error, "", model).message
    assert message == f"onnx2tf could not convert the model{operator}: ValueError: {said}"


def test_the_usage_note_matches_the_manifest() -> None:
    note = tflite_usage.usage(manifest=MANIFEST)
    assert note.count("```python") == 1
    compile(note.split("```python\n")[1].split("```")[0], "USAGE.md", "exec")
    assert "interpreter.resizeInput(1, intArrayOf(1, 3, 4, 5))\n" in note
    assert "interpreter.resizeInput(1, new int[] {1, 3, 4, 5});\n" in note
    assert (
        '    "image" to ByteBuffer.allocateDirect(240).order(ByteOrder.nativeOrder()), '
        "// float32 [1, 3, 4, 5], nchw\n"
    ) in note
    assert (
        'outputs.put("ids", ByteBuffer.allocateDirect(56).order(ByteOrder.nativeOrder())); '
        "// int64 [1, 7]\n"
    ) in note
    assert '"scale" to ByteBuffer.allocateDirect(4)' in note


def test_the_usage_note_says_how_integers_stand_for_real_numbers() -> None:
    tensor = {"name": "image", "shape": [1, 3], "dtype": "int8", "quantization": [0.5, -3]}
    described = MANIFEST | {"inputs": [tensor], "outputs": [tensor], "io": "int8"}
    note = tflite_usage.usage(manifest=described)
    code = note.split("```python\n")[1].split("```")[0]
    compile(code, "USAGE.md", "exec")
    assert 'for name, (scale, zero) in {"image": [0.5, -3]}.items():' in code
    assert "np.clip(steps, -128, 127).astype(np.int8)" in code
    assert "// int8 [1, 3], real number = 0.5 * (value - -3)" in note
