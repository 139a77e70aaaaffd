"""The main job: real weights, real photos, one config, seven targets, each with its verdict."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli import CONFIG, crosscast
from runtimes import runner
from safetensors.numpy import load_file

from crosscast.targets.families import coreml

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
# Chelsea the cat, coffee, rocket, flower, china, motorcycle: the classes torch gives them.
CLASSES = [282, 967, 657, 985, 698, 665]
TARGETS = list(yaml.safe_load(CONFIG.read_text())["targets"])
PROVEN = [name for name in TARGETS if name != "coreml-fp16"]


def manifest(artifact: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((artifact / "manifest.json").read_text())
    return value


def vectors(artifact: Path) -> list[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Case, image and the source's logits, for every vector."""
    arrays = load_file(artifact / "vectors.safetensors")
    cases = manifest(artifact)["vectors"]["cases"]
    return [
        (case, arrays[f"{index}/in/image"], arrays[f"{index}/out/logits"])
        for index, case in enumerate(cases)
    ]


@pytest.mark.parametrize("target", PROVEN)
def test_each_target_passed(built: Path, target: str) -> None:
    assert manifest(built / target)["verdict"]["status"] == "passed"


def test_core_ml_passes_and_says_what_computed_it(built: Path) -> None:
    verdict = manifest(built / "coreml-fp16")["verdict"]
    assert verdict["status"] == "passed"
    told = "computed by the reference evaluator of the saved program, not by Apple's runtime"
    assert verdict["reason"].endswith(told) is (sys.platform != "darwin")


def test_the_evaluator_gives_the_photos_the_classes_that_torch_gives(built: Path) -> None:
    session = coreml.evaluated(artifact=built / "coreml-fp16")
    cases = vectors(built / "coreml-fp16")
    photos = np.concatenate([x for case, x, _ in cases if case["origin"] == "real"][:6])
    found = [session.run({"image": photo[None]})["logits"] for photo in photos]
    assert [int(logits.argmax()) for logits in found] == CLASSES


@pytest.mark.parametrize("target", PROVEN)
def test_photos_get_the_classes_that_torch_gives(built: Path, target: str) -> None:
    run = runner(built / target, output="logits")
    photos = [(x, y) for case, x, y in vectors(built / target) if case["origin"] == "real"][:6]
    assert [int(reference.argmax()) for _, reference in photos] == CLASSES
    assert [int(run(image).argmax()) for image, _ in photos] == CLASSES


def test_vectors_hold_what_torch_computes(built: Path) -> None:
    import torch

    sys.path.insert(0, str(ROOT / "configs/zoo"))
    import efficientnet

    model = efficientnet.trained()
    for _, image, logits in vectors(built / "onnx"):
        with torch.inference_mode():
            expected = model(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_sizes_follow_the_precision(built: Path) -> None:
    size = {
        name: manifest(built / name)["files"][0]["size"] for name in TARGETS if "coreml" not in name
    }
    assert size["onnx-fp16"] < 0.55 * size["onnx"]
    assert size["onnx-int8"] < 0.35 * size["onnx"]
    assert size["tflite-fp16"] < 0.55 * size["tflite-fp32"]
    assert size["tflite-int8"] < 0.35 * size["tflite-fp32"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_manifest_states_the_interface(built: Path, target: str) -> None:
    value = manifest(built / target)
    assert value["inputs"] == [
        {
            "name": "image",
            "shape": ["batch", 3, 224, 224],
            "dtype": "float32",
            "layout": "nchw",
            "range": [-1.0, 1.0],
            "quantization": None,
            "values": None,
            "fed_by": None,
        }
    ]
    assert [(t["name"], t["shape"]) for t in value["outputs"]] == [("logits", ["batch", 1000])]
    assert value["dims"] == {"batch": [1, 4]}
    assert value["export"]["exporter"]
    assert set(value["tools"]) & {"torch", "onnx2tf", "coremltools"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_usage_note_works_as_it_stands(built: Path, target: str, tmp_path: Path) -> None:
    shutil.copytree(built / target, tmp_path / target)
    code = re.findall(r"```python\n(.*?)```", (built / target / "USAGE.md").read_text(), re.S)
    assert len(code) == 1
    done = subprocess.run(
        [sys.executable, "-c", code[0]],
        cwd=tmp_path / target,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "logits" in done.stdout


def test_a_second_build_runs_no_step_and_no_framework(built: Path, cache: Path) -> None:
    code = (
        "import sys\n"
        "from crosscast.pipeline.cli import run\n"
        f"code = run(['build', {str(CONFIG)!r}, '--out', {str(built.parents[1])!r}])\n"
        "names = ('torch', 'tensorflow', 'coremltools', 'onnxruntime', 'onnx', 'numpy')\n"
        "sys.exit(code or [name for name in names if name in sys.modules] or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "CROSSCAST_CACHE": str(cache)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 steps run" in done.stdout


@pytest.mark.parametrize("target", PROVEN)
def test_an_artifact_proves_itself_without_its_source(
    built: Path, target: str, cache: Path
) -> None:
    done = crosscast("verify", built / target, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_a_tampered_artifact_does_not_verify(built: Path, cache: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "onnx"
    shutil.copytree(built / "onnx", artifact)
    model = artifact / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 0x40
    model.chmod(0o644)
    model.write_bytes(data)
    done = crosscast("verify", artifact, cache=cache)
    assert done.returncode == 4
    assert "not the file that was proven" in done.stderr


def test_show_prints_the_verdict(built: Path, cache: Path) -> None:
    done = crosscast("show", built / "tflite-int8", cache=cache)
    assert done.returncode == 0
    assert "verdict: passed" in done.stdout
    assert "input:   image: float32[batch, 3, 224, 224] nchw" in done.stdout


def test_a_forced_build_gives_the_same_bytes(built: Path, cache: Path, tmp_path: Path) -> None:
    done = crosscast("build", CONFIG, "--out", tmp_path, "--force", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    again = tmp_path / "efficientnet-lite0" / "1.0.0"
    first = {p.relative_to(built): p.read_bytes() for p in built.rglob("*") if p.is_file()}
    second = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []
