"""Core ML packages that take images, name classes and say what they are, by the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import crosscast
from verdicts import judged

from crosscast.targets.families import coreml

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("coremltools")

NETS = '''
import numpy as np


def seeing(channels=3, heads=2):
    """An image to features and scores of five classes."""
    import torch
    from torch import nn

    class Seeing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(channels, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            )
            self.head = nn.Linear(32, 5)

        def forward(self, x):
            features = self.body(x)
            return {"features": features, "scores": self.head(features).softmax(-1)}

    torch.manual_seed(0)
    return Seeing()


def gray():
    return seeing(channels=1)


def scaled():
    """An image beside a factor for each."""
    import torch

    class Scaled(torch.nn.Module):
        def forward(self, x, factor):
            return x.mean((2, 3)) * factor

    return Scaled()


def crowd():
    """What no image has of its own."""
    import torch

    class Crowd(torch.nn.Module):
        def forward(self, x):
            return x.mean((0, 2, 3))

    return Crowd()


def keras():
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((24, 20, 3), name="x")
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(image))
    return keras.Model(image, keras.layers.Dense(5, activation="softmax", name="scores")(hidden))


def pixels():
    random = np.random.default_rng(0)
    for _ in range(3):
        yield {"x": random.integers(0, 256, (2, 24, 20, 3), np.uint8)}
'''
NAMES = ["ant", "bee", "cat", "dog", "eel"]
LABELS = f"labels: [{', '.join(NAMES)}]\n"
METADATA = "metadata: {author: Ada, license: MIT, description: Tells animals.}\n"
SEEING = "{torch: nets.py:seeing}"
SIZES = "resize: [24, 20]"
ARITHMETIC = "scale: 1/255, mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25]"


def config(
    targets: str,
    *,
    source: str = SEEING,
    shape: str = "[batch, 3, 24, 20]",
    preprocess: str = f"{SIZES}, color: bgr, {ARITHMETIC}",
    more: str = LABELS,
    inputs: str = "",
) -> str:
    return f"""
model: NAME
version: 1.2.3
source: {source}
inputs:
  x: {{shape: {shape}, dtype: float32, preprocess: {{{preprocess}}}}}
{inputs}{more}targets: {{{targets}}}
"""


def build(configs: Mapping[str, str], where: Path, cache: Path) -> tuple[int, str]:
    """Build configs, by the names of their models."""
    (where / "nets.py").write_text(NETS)
    for name, text in configs.items():
        (where / f"{name}.yaml").write_text(text.replace("NAME", name))
    files = [where / f"{name}.yaml" for name in configs]
    done = crosscast("build", *files, "--out", where / "out", cache=cache)
    return done.returncode, done.stdout + done.stderr


def artifact(where: Path, target: str, name: str = "seeing") -> Path:
    return where / "out" / name / "1.2.3" / target


def told(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return found


OTHERS = {
    "smaller-weights": config(
        "coreml-int8: {preprocess: fold, quantize: {mode: palettized}}, "
        "coreml-fp16: {preprocess: fold}"
    ),
    "gray": config(
        "coreml-fp16: {preprocess: fold}",
        source="{torch: nets.py:gray}",
        shape="[1, 1, 24, 20]",
        preprocess=f"{SIZES}, color: gray",
    ),
    "from-keras": config(
        "coreml-fp16: {preprocess: fold}",
        source="{keras: nets.py:keras}",
        shape="[batch, 24, 20, 3]",
        preprocess=f"{SIZES}, {ARITHMETIC}",
    ),
    "from-onnx": config("onnx: {preprocess: fold}, coreml-fp16: {from: onnx}"),
    "another-input": config(
        "coreml-fp32: {preprocess: fold}",
        source="{torch: nets.py:scaled}",
        inputs="  factor: {shape: [batch, 1], dtype: float32, range: [0, 1]}\n",
        more="",
    ),
    "sizes-in-a-range": config(
        "coreml-fp32: {preprocess: fold}",
        shape="[batch, 3, height, width], height: [16, 40], width: [16, 40]",
        preprocess=ARITHMETIC,
        more="",
    ),
    "classes-saved-model": config(
        "coreml-fp16: {via: saved_model}",
        source="{keras: nets.py:keras}",
        shape="[batch, 24, 20, 3]",
    ),
    "classes-program": config("coreml-fp16: {via: exported_program}"),
    "classes-onnx": config("coreml-fp16: {via: onnx}"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    where = tmp_path_factory.mktemp("images")
    targets = "coreml-fp32: {preprocess: fold}, coreml-fp16: {preprocess: fold}"
    samples = "samples: {parity: 'nets.py:pixels'}\n"
    text = config(targets, more=LABELS + METADATA + samples)
    code, said = build({"seeing": text, **OTHERS}, where, cache)
    assert code == 0, said
    return where


@pytest.mark.parametrize("name", ["coreml-fp32", "coreml-fp16"])
def test_a_classifier_of_images_is_proven(made: Path, name: str, cache: Path) -> None:
    path = artifact(made, name)
    assert told(path)["verdict"]["status"] == "passed"
    assert told(path)["labels"] == {"output": "scores", "names": NAMES}
    assert told(path)["inputs"][0]["shape"] == ["batch", 24, 20, 3]
    description = coreml.spec_of(path).description
    image = description.input[0].type.imageType
    assert (image.height, image.width, image.colorSpace) == (24, 20, image.ColorSpace.RGB)
    kinds = {feature.name: feature.type.WhichOneof("Type") for feature in description.output}
    assert kinds == {
        "classLabel": "stringType",
        "classLabel_probs": "dictionaryType",
        "features": "multiArrayType",
    }
    assert description.predictedFeatureName == "classLabel"
    assert description.predictedProbabilitiesName == "classLabel_probs"
    metadata = description.metadata
    assert (metadata.author, metadata.license) == ("Ada", "MIT")
    assert (metadata.shortDescription, metadata.versionString) == ("Tells animals.", "1.2.3")
    again = crosscast("verify", path, cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr


def test_nothing_is_left_between_the_image_and_the_network(made: Path) -> None:
    block = program(coreml.spec_of(artifact(made, "coreml-fp32")))
    kinds = [operation.type for operation in block.operations if operation.type != "const"]
    assert kinds[:3] == ["gather", "batch_norm", "conv"]
    assert "transpose" not in kinds
    assert kinds[-1] == "classify"


def test_a_package_that_takes_images_is_explained(made: Path, tmp_path: Path, cache: Path) -> None:
    """The preprocessing is in it, and it takes the images of a case one by one."""
    folder = tmp_path / "coreml-fp16"
    shutil.copytree(artifact(made, folder.name), folder)
    (name,) = [
        operation.outputs[0].name
        for operation in coreml.program(folder).block.operations
        if operation.type == "const"
        and getattr(operation.arguments["val"][0].value, "shape", ()) == (32, 16, 3, 3)
    ]
    coreml.overwrite(folder, {name: np.zeros((32, 16, 3, 3), np.float16)})
    words = ("explain", folder, "--config", made / "seeing.yaml", "--json")
    done = crosscast(*words, cache=cache)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["status"], found["layer"]) == ("failed", "model.body.2/node_conv2d_1")


def test_the_classifier_is_coremltools_own(made: Path) -> None:
    import coremltools
    from coremltools.converters.mil.mil import Builder

    @Builder.program(input_specs=[Builder.TensorSpec((1, 5))])  # type: ignore[untyped-decorator]
    def scores(x: Any) -> Any:
        return Builder.softmax(x=x, axis=-1, name="scores")

    theirs = coremltools.convert(
        scores,
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        classifier_config=coremltools.ClassifierConfig(NAMES),
        skip_model_load=True,
    ).get_spec()
    ours = coreml.spec_of(artifact(made, "coreml-fp32"))
    wanted, found = (program(spec).operations[-1] for spec in (theirs, ours))
    for operation in (wanted, found):
        del operation.attributes["name"]
    assert found.SerializeToString(deterministic=True) == wanted.SerializeToString(
        deterministic=True
    )
    for mine, its in zip(ours.description.output[:2], theirs.description.output, strict=True):
        assert (mine.name, mine.type) == (its.name, its.type)


def program(spec: Any) -> Any:
    (function,) = spec.mlProgram.functions.values()
    return function.block_specializations[function.opset]


# A package that is something else


def bgr(spec: Any) -> None:
    image = spec.description.input[0].type.imageType
    image.colorSpace = image.ColorSpace.BGR


def permuted(spec: Any) -> None:
    (classes,) = program(spec).operations[-1].inputs["classes"].arguments
    entries = classes.value.immediateValue.list.values
    first, second = (entries[place].immediateValue.tensor.strings.values for place in (0, 1))
    first[0], second[0] = second[0], first[0]


def unlabelled(spec: Any) -> None:
    del spec.description.metadata.userDefined["crosscast.scores"]


def honest(spec: Any) -> None:
    """As it is."""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (bgr, "snr"),
        (permuted, "the artifact calls class 0 'bee', not 'ant'"),
        (unlabelled, "metadata 'crosscast.scores' cannot be read"),
        (honest, ""),
    ],
)
def test_a_package_that_is_something_else_fails(
    made: Path, change: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    origin = artifact(made, "coreml-fp16")
    shutil.copytree(origin / coreml.MODEL, tmp_path / coreml.MODEL)
    spec = coreml.spec_of(origin)
    change(spec)
    (tmp_path / coreml.MODEL / coreml.SPEC).write_bytes(spec.SerializeToString())
    found = judged(
        origin,
        tmp_path,
        narrowed=coreml.NARROWED,
        pixels=["x"],
        labels=told(origin)["labels"]["names"],
    )
    assert found.status == ("passed" if change is honest else "failed")
    assert said in found.reason.lower() or said in found.reason


# Other models


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_proven(made: Path, name: str) -> None:
    for path in artifact(made, "", name).glob("coreml-*"):
        assert told(path)["verdict"]["status"] == "passed"
        description = coreml.spec_of(path).description
        assert description.input[0].type.HasField("imageType") == ("fold" in OTHERS[name])
        assert bool(description.predictedFeatureName) == ("labels" in OTHERS[name])
        assert description.metadata.versionString == "1.2.3"
        first = "batch" if "[batch" in OTHERS[name] else 1
        assert coreml.interface(path)[0][0].shape[0] == first


REFUSED = {
    "two": (
        config("coreml-fp16: {preprocess: fold}", shape="[2, 3, 24, 20]"),
        "Core ML takes one image and classifies one thing at a time, and 'x' is of 2",
    ),
    "crowd": (
        config("coreml-fp16: {preprocess: fold}", source="{torch: nets.py:crowd}", more=""),
        "cannot be divided along 'batch'",
    ),
    "labels-coreml": (
        config("coreml-fp16: {preprocess: fold}", more="labels: [ant, bee]\n"),
        "`labels` names 2 classes, and no output has a score for each of them: 'features' has 32, "
        "'scores' has 5",
    ),
}


def test_what_cannot_be_is_refused(tmp_path: Path, cache: Path) -> None:
    code, said = build({name: text for name, (text, _) in REFUSED.items()}, tmp_path, cache)
    assert code == 1
    for name, (_, wanted) in REFUSED.items():
        assert wanted in said, name
    assert not list(tmp_path.glob("out/*/*/coreml-fp16"))
