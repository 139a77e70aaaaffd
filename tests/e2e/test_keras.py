"""Keras models, whatever made them: exported, run in their runtimes and held against Keras."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import CONFIG, crosscast

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources import keras as source
from crosscast.pipeline.sources.outputs import examples
from crosscast.targets.families import onnx_runtime, tflite, tflite_runtime

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

HERE = Path(__file__).parent
ROOT = CONFIG.parents[1]
ZOO = CONFIG.parent / "zoo"
NOTHING = Signature(inputs=())
TOLERANCE = 2e-6
NAMES = (
    "sequential", "unet", "preprocessed", "grouped", "attention", "text", "lstm", "gru",
    "convolved_lstm", "masked", "streaming", "volume", "subclassed", "mixed", "half", "stateful",
)  # fmt: skip


def net(name: str) -> dict[str, Any]:
    return {"kind": "keras", "factory": f"{HERE / 'keras_nets.py'}:{name}", "model": None}


def exported(kind: Any, of: dict[str, Any], out: Path, **changed: Any) -> tuple[Any, Any]:
    """The reference and the artifact that this kind of tree leads to, as sessions."""
    given = changed.pop("declared", NOTHING)
    signature = source.signature(source=of, declared=given)
    choices: dict[str, Any] = {"opset": None, "layout": None, "program": None, "outputs": None}
    tree = out / kind
    tree.mkdir()
    source.export(to=kind, source=of, signature=signature, out=tree, **choices | changed)
    reference = source.load(source=of, signature=signature, outputs=None)
    if kind == "onnx":
        return reference, onnx_runtime.open(artifact=tree)
    artifact = out / "tflite"
    artifact.mkdir()
    tflite.convert(model=tree, options={}, out=artifact)
    return reference, tflite_runtime.open(artifact=artifact)


def differences(reference: Any, session: Any, signature: Signature) -> Iterator[float]:
    for arrays in examples(signature):
        wanted, found = reference.run(arrays), session.run(arrays)
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            assert found[name].shape == array.shape
            assert found[name].dtype == array.dtype
            yield float(np.abs(found[name] - array).max() / max(np.abs(array).max(), 1e-3))


@pytest.mark.parametrize("kind", ["onnx", "saved_model"])
@pytest.mark.parametrize("name", NAMES)
def test_artifacts_compute_what_keras_does(name: str, kind: str, tmp_path: Path) -> None:
    reference, session = exported(kind, net(name), tmp_path)
    signature = source.signature(source=net(name), declared=NOTHING)
    assert [t.name for t in session.inputs] == [t.name for t in reference.inputs]
    assert max(differences(reference, session, signature)) < TOLERANCE


def test_the_model_tells_its_inputs_and_outputs() -> None:
    signature = source.signature(source=net("unet"), declared=NOTHING)
    (image,) = signature.inputs
    assert (image.name, image.shape, image.layout) == ("image", ("batch", 16, 16, 3), "nhwc")
    assert signature.dims == {"batch": (1, 4)}
    reference = source.load(source=net("streaming"), signature=NOTHING, outputs=None)
    assert [tensor.name for tensor in reference.inputs] == ["x", "h", "c"]
    assert [tensor.name for tensor in reference.outputs] == ["y", "h_next", "c_next"]
    (signal,) = source.signature(source=net("subclassed"), declared=NOTHING).inputs
    assert (signal.name, signal.shape) == ("signal", ("batch", 5))


def test_recurrent_layers_are_no_loops(tmp_path: Path) -> None:
    import onnx

    for name, operator in (("lstm", "LSTM"), ("gru", "GRU"), ("convolved_lstm", "Conv")):
        (tmp_path / name).mkdir()
        exported("onnx", net(name), tmp_path / name)
        graph = onnx.load(tmp_path / name / "onnx/model.onnx").graph
        operators = {node.op_type for node in graph.node}
        assert operator in operators
        assert not {"Loop", "Scan"} & operators


@pytest.mark.parametrize("kind", ["onnx", "saved_model"])
def test_another_layout_is_delivered(kind: str, tmp_path: Path) -> None:
    _, session = exported(kind, net("unet"), tmp_path, layout="nchw")
    plain = source.signature(source=net("unet"), declared=NOTHING)
    reference = source.load(source=net("unet"), signature=plain, outputs=None)
    first, _ = examples(plain)
    turned = {"image": np.ascontiguousarray(first["image"].transpose(0, 3, 1, 2))}
    found = session.run(turned)["mask"].transpose(0, 2, 3, 1)
    assert np.abs(found - reference.run(first)["mask"]).max() < TOLERANCE


def test_odd_names_are_kept(tmp_path: Path) -> None:
    tensor = Tensor(name="the image", shape=("n", 16, 16, 3), dtype="float32", layout="nhwc")
    declared = Signature(inputs=(tensor,), dims={"n": (1, 3)})
    for kind in ("onnx", "saved_model"):
        _, session = exported(kind, net("unet"), tmp_path, declared=declared, outputs=["a/mask: 0"])
        assert [t.name for t in session.inputs] == ["the image"]
        assert [t.name for t in session.outputs] == ["a/mask: 0"]


def test_a_newer_opset_is_reached(tmp_path: Path) -> None:
    import onnx

    exported("onnx", net("attention"), tmp_path, opset=21)
    model = onnx.load(tmp_path / "onnx/model.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [21]


def test_operators_without_equivalent_are_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"operator Igamma \(layer .*odd.*has no ONNX"):
        exported("onnx", net("without_equivalent"), tmp_path)
    with pytest.raises(StageError, match=r"operator Igamma \(layer .*odd.*has no TFLite"):
        exported("saved_model", net("without_equivalent"), tmp_path)


def test_a_loop_over_an_unknown_length_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"TensorList.*has no TFLite equivalent") as caught:
        exported("saved_model", net("long_recurrence"), tmp_path)
    assert "fixed sizes" in caught.value.fix


def test_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(StageError, match="NaN or infinite values in"):
        source.signature(source=net("not_a_number"), declared=NOTHING)


def test_a_model_that_tells_nothing_needs_declared_inputs(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="does not tell its inputs"):
        source.signature(source=net("unbuilt"), declared=NOTHING)
    tensor = Tensor(name="signal", shape=("batch", 5), dtype="float32")
    declared = Signature(inputs=(tensor,), dims={"batch": (1, 4)})
    reference, session = exported("onnx", net("unbuilt"), tmp_path, declared=declared)
    assert max(differences(reference, session, declared)) < TOLERANCE


def file(path: Path, *, trusted: bool = False) -> dict[str, Any]:
    return {"kind": "keras", "factory": None, "model": str(path), "trusted": trusted}


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_bytecode_runs_only_where_it_is_trusted(name: str, tmp_path: Path) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2, name="twice")]
    )
    model.save(tmp_path / name)
    with pytest.raises(StageError, match=r"lambda as bytecode \(layer 'twice'\)") as caught:
        source.signature(source=file(tmp_path / name), declared=NOTHING)
    assert "trusted: true" in caught.value.fix
    of = file(tmp_path / name, trusted=True)
    reference = source.load(source=of, signature=NOTHING, outputs=["y"])
    (port,) = reference.inputs
    found = reference.run({port.name: np.ones((1, 3), np.float32)})["y"]
    assert found.tolist() == [[2, 2, 2]]


def test_a_file_of_weights_alone_is_refused(tmp_path: Path) -> None:
    import keras

    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(
        tmp_path / "model.weights.h5"
    )
    with pytest.raises(StageError, match="holds weights only"):
        source.signature(source=file(tmp_path / "model.weights.h5"), declared=NOTHING)


def built(config: Path, out: Path, cache: Path) -> Path:
    """The artifacts of a config that must pass."""
    done = crosscast("build", config, "--out", out, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    (version,) = out.glob("*/*")
    return version


def test_resnet8_keeps_its_answers_in_int8(tmp_path: Path, cache: Path) -> None:
    import onnxruntime

    artifacts = built(ROOT / "configs/cifar-resnet8.yaml", tmp_path, cache)
    sys.path.insert(0, str(ZOO))
    import cifar

    photos = [sample["image"] for sample in cifar.parity()]
    right = {}
    for target in ("onnx", "onnx-int8"):
        session = onnxruntime.InferenceSession(artifacts / target / "model.onnx")
        answers = [session.run(None, {"image": photo})[0].argmax() for photo in photos]
        right[target] = sum(np.equal(answers, cifar.labels()))
    for target in ("tflite-fp32", "tflite-int8"):
        lite = tflite_runtime.open(artifact=artifacts / target)
        answers = [lite.run({"image": photo})["probabilities"].argmax() for photo in photos]
        right[target] = sum(np.equal(answers, cifar.labels()))
    assert right["onnx"] == right["tflite-fp32"] == 18
    assert right["onnx-int8"] >= 17
    assert right["tflite-int8"] >= 17


@pytest.mark.parametrize(
    ("path", "reader", "via"),
    [
        ("fer/data/emotion_model.hdf5", None, "saved_model"),  # Keras 2.0.5
        ("wake_words/visual_wake_words.h5", "tf_keras", "onnx"),  # DepthwiseConv2D of Keras 2
    ],
)
def test_old_files_build_and_pass(
    path: str, reader: str | None, via: str, tmp_path: Path, cache: Path
) -> None:
    config = tmp_path / "old.yaml"
    config.write_text(
        f"model: old\nversion: 1.0.0\nsource: {{keras: {ZOO / 'models' / path}}}\n"
        f"targets: {{onnx: {{}}, tflite-fp32: {{via: {via}}}}}\n"
    )
    artifacts = built(config, tmp_path / "out", cache)
    for target in ("onnx", "tflite-fp32"):
        manifest = json.loads((artifacts / target / "manifest.json").read_text())
        assert manifest["verdict"]["status"] == "passed"
        assert manifest["export"].get("reader") == reader
        assert ("exporter" in manifest["export"]) is (target == "onnx" or via == "onnx")
