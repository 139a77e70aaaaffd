"""A vendor's own Core ML package, and ours from the same SavedModel, against the vendor's TFLite
and ONNX files in their runtimes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from cli import CONFIG, crosscast

from crosscast.pipeline.parity.metrics import Extent, compare
from crosscast.pipeline.parity.tolerance import excess, tolerance
from crosscast.pipeline.signature import Arrays
from crosscast.targets.families import coreml, coreml_audit

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("coremltools")

VENDOR = CONFIG.parent / "zoo/models/basic_pitch/saved_models/icassp_2022"
NAMES = ("contour", "note", "onset")
"""The SavedModel's outputs; converters number them in this order."""
FLOAT32 = 1e-5
"""Greatest error, of the greatest value."""
RUNTIMES = ("tflite", "onnx")

Run = Callable[[np.ndarray], Arrays]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Our artifacts, by their targets' names."""
    folder = tmp_path_factory.mktemp("ours")
    text = (CONFIG.parent / "basic-pitch.yaml").read_text().partition("targets:")[0]
    config = folder / "config.yaml"
    config.write_text(
        text.replace("zoo/", f"{CONFIG.parent}/zoo/")
        + "targets: {coreml-fp32: {}, coreml-fp16: {}}"
    )
    done = crosscast("build", config, "--out", folder, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "basic-pitch/1.0.0"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the vendor's package where an artifact has its own."""
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copytree(VENDOR / "nmp.mlpackage", folder / coreml.MODEL)
    return folder


@pytest.fixture(scope="module")
def sounds(ours: Path) -> list[np.ndarray]:
    """The melodies of the config."""
    from safetensors.numpy import load_file

    cases = json.loads((ours / "coreml-fp32/manifest.json").read_text())["vectors"]["cases"]
    arrays = load_file(ours / "coreml-fp32/vectors.safetensors")
    real = [index for index, case in enumerate(cases) if case["origin"] == "real"]
    assert len(real) == 3
    return [arrays[f"{index}/in/audio"] for index in real]


@pytest.fixture(scope="module")
def answers(sounds: list[np.ndarray]) -> Mapping[str, list[Arrays]]:
    """What the vendor's files give in their runtimes, by the runtime."""
    runs = {"tflite": tflite(), "onnx": onnx()}
    return {name: [runs[name](sound) for sound in sounds] for name in RUNTIMES}


@pytest.fixture(scope="module")
def found(ours: Path, theirs: Path, sounds: list[np.ndarray]) -> Mapping[str, list[Arrays]]:
    """What the packages give in the evaluator, by whose they are."""
    artifacts = {"theirs": theirs, "fp32": ours / "coreml-fp32", "fp16": ours / "coreml-fp16"}
    return {name: evaluated(artifact, sounds) for name, artifact in artifacts.items()}


def tflite() -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(VENDOR / "nmp.tflite"))
    run = interpreter.get_signature_runner()
    return lambda sound: run(input_2=sound)  # type: ignore[no-any-return]


def onnx() -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(VENDOR / "nmp.onnx")
    (port,) = session.get_inputs()
    outputs = [f"StatefulPartitionedCall:{place}" for place in range(len(NAMES))]
    return lambda sound: dict(zip(NAMES, session.run(outputs, {port.name: sound}), strict=True))


def evaluated(artifact: Path, sounds: list[np.ndarray]) -> list[Arrays]:
    """A package's answers in the evaluator, whatever it calls its input and outputs."""
    session = coreml.evaluated(artifact=artifact)
    (port,) = session.inputs
    outputs = sorted(tensor.name for tensor in session.outputs)
    answers = [session.run({port.name: sound}) for sound in sounds]
    return [
        {name: answer[own] for name, own in zip(NAMES, outputs, strict=True)} for answer in answers
    ]


def farthest(found: list[Arrays], wanted: list[Arrays]) -> float:
    """The greatest error of any output for any sound, of the output's greatest value."""
    pairs = [(f[name], w[name]) for f, w in zip(found, wanted, strict=True) for name in NAMES]
    assert [f.shape for f, _ in pairs] == [w.shape for _, w in pairs]
    return max(float(np.abs(f - w).max() / np.abs(w).max()) for f, w in pairs)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("package", ["theirs", "fp32"])
def test_in_fp32_a_package_gives_what_the_vendors_other_files_give(
    found: Mapping[str, list[Arrays]],
    answers: Mapping[str, list[Arrays]],
    package: str,
    runtime: str,
) -> None:
    assert farthest(found[package], answers[runtime]) <= FLOAT32


def test_in_fp32_all_weights_are(ours: Path, theirs: Path) -> None:
    for artifact in (theirs, ours / "coreml-fp32"):
        assert coreml_audit.precision(artifact=artifact).weights.keys() == {"float32"}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_in_fp16_ours_gives_it_within_the_limits_of_fp16(
    found: Mapping[str, list[Arrays]], answers: Mapping[str, list[Arrays]], runtime: str
) -> None:
    limits = tolerance("fp16", {})
    for ours, wanted in zip(found["fp16"], answers[runtime], strict=True):
        for name in NAMES:
            numbers = compare(wanted[name], ours[name], typical=Extent.of(wanted[name]))
            assert excess(numbers, limits) == ""


@pytest.mark.parametrize(
    ("target", "delivered"), [("coreml-fp32", "fp32"), ("coreml-fp16", "fp16")]
)
def test_ours_passed(ours: Path, target: str, delivered: str) -> None:
    manifest = json.loads((ours / target / "manifest.json").read_text())
    assert manifest["verdict"]["status"] == "passed"
    assert manifest["precision"]["delivered"] == delivered


def test_another_weight_in_the_vendors_package_is_seen(
    theirs: Path, sounds: list[np.ndarray], answers: Mapping[str, list[Arrays]], tmp_path: Path
) -> None:
    shutil.copytree(theirs / coreml.MODEL, tmp_path / coreml.MODEL)
    weights = tmp_path / coreml.MODEL / "Data/com.apple.CoreML/weights/weight.bin"
    content = np.fromfile(weights, np.float32)
    content[len(content) // 2] += 0.01
    content.tofile(weights)
    assert farthest(evaluated(tmp_path, sounds), answers["onnx"]) > FLOAT32
