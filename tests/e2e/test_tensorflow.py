"""SavedModels and TensorFlow functions, run in their runtimes and held against TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import CONFIG, crosscast

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources import tensorflow as source
from crosscast.pipeline.sources.outputs import examples
from crosscast.targets.families import onnx_runtime, tflite, tflite_runtime
from crosscast.targets.families.tensorflow import framework

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

ROOT = CONFIG.parents[1]
VENDOR = CONFIG.parent / "zoo/models/basic_pitch/saved_models/icassp_2022"
NOTHING = Signature(inputs=())
VENDOR_TOLERANCE = 1e-5
"""Greatest absolute error; the outputs are probabilities."""

FACTORIES = """
import tensorflow as tf

SPEC = [tf.TensorSpec([None, 3], tf.float32, name="x"), tf.TensorSpec([None], tf.int32)]


def function():
    @tf.function(input_signature=SPEC)
    def run(x, chosen):
        if tf.reduce_sum(x) > 0:  # control flow that depends on the data
            y = x * 2
        else:
            y = x - 1
        return {"y": y, "picked": tf.gather(y, chosen, batch_dims=1)}

    return run


class Net(tf.Module):
    def __init__(self):
        self.w = tf.Variable(tf.random.stateless_normal([3, 4], seed=[1, 2]))

    def __call__(self, x, training=True):
        if training:
            return x
        if tf.reduce_max(x) > 0:  # of a tensor, in a method that is no tf.function
            x = x * 3
        return tf.nn.relu(x @ self.w)


def module():
    return Net()


class Counter(tf.Module):
    def __init__(self):
        self.count = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def __call__(self, x):
        return x + self.count.assign_add(1.0)


def counter():
    return Counter()


def nothing():
    pass
"""


def made(tmp_path: Path, name: str) -> dict[str, Any]:
    (tmp_path / "nets.py").write_text(FACTORIES)
    return {"kind": "tensorflow", "factory": f"{tmp_path / 'nets.py'}:{name}", "model": None}


def saved(folder: Path, signature: str | None = None) -> dict[str, Any]:
    return {
        "kind": "tensorflow", "factory": None, "model": str(folder), "signature": signature,
    }  # fmt: skip


def sessions(of: dict[str, Any], declared: Signature, out: Path) -> list[Any]:
    """What ONNX Runtime and LiteRT make of the model."""
    signature = source.signature(source=of, declared=declared)
    trees = {kind: out / kind for kind in ("onnx", "saved_model")}
    for kind, tree in trees.items():
        tree.mkdir(parents=True)
        source.export(
            to=kind,  # type: ignore[arg-type]
            source=of,
            signature=signature,
            outputs=None,
            opset=None,
            layout=None,
            program=None,
            out=tree,
        )
    (out / "tflite").mkdir()
    tflite.convert(model=trees["saved_model"], options={}, out=out / "tflite")
    return [
        onnx_runtime.open(artifact=trees["onnx"]),
        tflite_runtime.open(artifact=out / "tflite"),
    ]


def test_what_has_computed_already_is_ready() -> None:
    from crosscast.targets.families.tensorflow_import import tensorflow as tf

    assert float(tf.constant(1.0) + 1.0) == 2.0
    assert framework() is tf


def test_a_function_with_control_flow(tmp_path: Path) -> None:
    of = made(tmp_path, "function")
    signature = source.signature(source=of, declared=NOTHING)
    assert [(t.name, t.shape, t.dtype) for t in signature.inputs] == [
        ("x", ("batch", 3), "float32"),
        ("chosen", ("batch",), "int32"),
    ]
    reference = source.load(source=of, signature=signature, outputs=None)
    assert [tensor.name for tensor in reference.outputs] == ["y", "picked"]
    for session in sessions(of, NOTHING, tmp_path / "out"):
        for arrays in examples(signature):
            for name, array in reference.run(arrays).items():
                np.testing.assert_allclose(session.run(arrays)[name], array, atol=1e-6)


def test_a_module_is_run_in_inference_mode(tmp_path: Path) -> None:
    of = made(tmp_path, "module")
    tensor = Tensor(name="x", shape=("batch", 3), dtype="float32")
    declared = Signature(inputs=(tensor,), dims={"batch": (1, 4)})
    reference = source.load(source=of, signature=declared, outputs=None)
    assert [(t.name, t.shape) for t in reference.outputs] == [("output", ("batch", 4))]
    for session in sessions(of, declared, tmp_path / "out"):
        for arrays in examples(declared):
            found, wanted = session.run(arrays)["output"], reference.run(arrays)["output"]
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_state_is_refused_by_name(tmp_path: Path) -> None:
    of = made(tmp_path, "counter")
    reference = source.load(source=of, signature=NOTHING, outputs=None)
    zeros = {"x": np.zeros((1, 2), np.float32)}
    assert reference.run(zeros)["output"].max() == reference.run(zeros)["output"].max() == 1
    with pytest.raises(StageError, match="AssignAddVariableOp") as caught:
        sessions(of, NOTHING, tmp_path / "out")
    assert "return it as an output" in caught.value.fix


def test_a_factory_that_gives_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="gave None, which cannot be called"):
        source.signature(source=made(tmp_path, "nothing"), declared=NOTHING)


def test_signatures_are_chosen_or_listed(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    module.double = tf.function(lambda x: {"y": x * 2}, input_signature=[spec])
    module.half = tf.function(lambda x: {"y": x / 2}, input_signature=[spec])
    folder = tmp_path / "saved"
    tf.saved_model.save(module, folder, signatures={"double": module.double, "half": module.half})
    of = saved(folder, "half")
    reference = source.load(source=of, signature=NOTHING, outputs=None)
    assert reference.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[0.5, 0.5]]
    with pytest.raises(StageError, match=r"no signature 'serving_default'; it has '\w+', '\w+'"):
        source.signature(source=saved(folder), declared=NOTHING)


def test_a_broken_saved_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x0a\xff not one")
    with pytest.raises(StageError, match="cannot be read as a SavedModel"):
        source.signature(source=saved(tmp_path), declared=NOTHING)


def test_basic_pitch_matches_its_vendors_own_files(tmp_path: Path, cache: Path) -> None:
    """Which of the vendor's outputs is which is known by their values: they have no names."""
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter
    from safetensors.numpy import load_file

    config = ROOT / "configs/basic-pitch.yaml"
    done = crosscast("build", config, "--out", tmp_path, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    artifacts = tmp_path / "basic-pitch/1.0.0"
    vendor = onnxruntime.InferenceSession(VENDOR / "nmp.onnx")
    lite = Interpreter(str(VENDOR / "nmp.tflite"))
    lite.allocate_tensors()
    (port,) = lite.get_input_details()
    arrays = load_file(artifacts / "onnx/vectors.safetensors")
    cases = json.loads((artifacts / "onnx/manifest.json").read_text())["vectors"]["cases"]
    ours = {
        "onnx": onnx_runtime.open(artifact=artifacts / "onnx"),
        "tflite": tflite_runtime.open(artifact=artifacts / "tflite-fp32"),
    }
    compared = 0
    for index, case in enumerate(cases):
        sound = arrays[f"{index}/in/audio"]
        if case["origin"] != "real":
            continue
        theirs = vendor.run(None, {vendor.get_inputs()[0].name: sound})
        lite.set_tensor(port["index"], sound)
        lite.invoke()
        found = [lite.get_tensor(detail["index"]) for detail in lite.get_output_details()]
        for name in ("contour", "note", "onset"):
            for session, answers in ((ours["onnx"], theirs), (ours["tflite"], found)):
                mine = session.run({"audio": sound})[name]
                error = min(np.abs(mine - a).max() for a in answers if a.shape == mine.shape)
                assert error < VENDOR_TOLERANCE, (case["name"], name, error)
                compared += 1
    assert compared == 3 * 3 * 2
