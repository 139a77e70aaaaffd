"""The example's photos by its Core ML packages in fp16 and with int8 weights, and by torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli import CONFIG, crosscast
from PIL import Image

from crosscast.targets.families import coreml

pytestmark = pytest.mark.e2e
pytest.importorskip("coremltools")

ZOO = CONFIG.parent / "zoo"
LABELLED = sorted((ZOO / "models/foolbox/data").glob("imagenet_*.jpg"))
# Chelsea the cat, coffee, rocket, flower, china, motorcycle: the classes torch gives them.
CLASSES = [282, 967, 657, 985, 698, 665]

Classify = Callable[[np.ndarray], int]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The artifact with int8 weights."""
    folder = tmp_path_factory.mktemp("int8")
    text = CONFIG.read_text().partition("targets:")[0].replace("zoo/", f"{ZOO}/")
    (folder / "config.yaml").write_text(text + "targets: {coreml-int8: {}}")
    done = crosscast("build", folder / "config.yaml", "--out", folder, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "efficientnet-lite0/1.0.0/coreml-int8"


@pytest.fixture(scope="module")
def named() -> list[np.ndarray]:
    """The photos of CLASSES, as the network wants them."""
    sys.path.insert(0, str(ZOO))
    import photos

    return [sample["image"] for sample in photos.parity()]


@pytest.fixture(scope="module")
def labelled() -> list[np.ndarray]:
    """The labelled photos, as the network wants them."""
    sys.path.insert(0, str(ZOO))
    from photos import prepare

    assert len(LABELLED) == 20
    return [prepare(Image.open(photo).convert("RGB")) for photo in LABELLED]


@pytest.fixture(scope="module")
def by_torch() -> Classify:
    import torch

    sys.path.insert(0, str(ZOO))
    import efficientnet

    model = efficientnet.trained()

    def classify(image: np.ndarray) -> int:
        with torch.inference_mode():
            return int(model(torch.from_numpy(image)).argmax())

    return classify


def evaluated(artifact: Path) -> Classify:
    session = coreml.evaluated(artifact=artifact)
    return lambda image: int(session.run({"image": image})["logits"].argmax())


def test_int8_weights_passed(int8: Path) -> None:
    manifest = json.loads((int8 / "manifest.json").read_text())
    assert manifest["verdict"]["status"] == "passed"
    assert manifest["precision"]["delivered"] == "int8"


def test_fp16_gives_every_photo_the_class_that_torch_gives(
    built: Path, named: list[np.ndarray], labelled: list[np.ndarray], by_torch: Classify
) -> None:
    classify = evaluated(built / "coreml-fp16")
    for image in [*named, *labelled]:
        assert classify(image) == by_torch(image)


def test_int8_weights_give_photos_the_classes_that_torch_gives(
    int8: Path, named: list[np.ndarray], by_torch: Classify
) -> None:
    classify = evaluated(int8)
    assert [by_torch(image) for image in named] == CLASSES
    assert [classify(image) for image in named] == CLASSES


def test_int8_weights_lose_one_photo_of_twenty_at_most(
    int8: Path, labelled: list[np.ndarray], by_torch: Classify
) -> None:
    classify = evaluated(int8)
    labels = [int(photo.stem.rpartition("_")[2]) for photo in LABELLED]
    right = sum(by_torch(image) == label for image, label in zip(labelled, labels, strict=True))
    kept = sum(classify(image) == label for image, label in zip(labelled, labels, strict=True))
    assert right == 18
    assert kept >= right - 1
