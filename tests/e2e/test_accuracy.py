"""int8 on labelled photos: what quantization costs in top-1, on images that calibrated nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runtimes import runner

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PHOTOS = sorted((ROOT / "configs/zoo/models/foolbox/data").glob("imagenet_*.jpg"))


def label(photo: Path) -> int:
    """The true class, which the file's name ends with."""
    return int(photo.stem.rpartition("_")[2])


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    sys.path.insert(0, str(ROOT / "configs/zoo"))
    from photos import prepare

    assert len(PHOTOS) == 20
    return [prepare(Image.open(photo).convert("RGB")) for photo in PHOTOS]


@pytest.fixture(scope="module")
def right(images: list[np.ndarray]) -> int:
    """How many photos torch itself gets right."""
    import torch

    sys.path.insert(0, str(ROOT / "configs/zoo"))
    import efficientnet

    model = efficientnet.trained()
    with torch.inference_mode():
        found = [int(model(torch.from_numpy(image)).argmax()) for image in images]
    return sum(guess == label(photo) for guess, photo in zip(found, PHOTOS, strict=True))


@pytest.mark.parametrize("target", ["onnx-int8", "tflite-int8"])
def test_int8_loses_one_photo_of_twenty_at_most(
    built: Path, target: str, images: list[np.ndarray], right: int
) -> None:
    assert right == 18
    run = runner(built / target, output="logits")
    found = [int(run(image).argmax()) for image in images]
    kept = sum(guess == label(photo) for guess, photo in zip(found, PHOTOS, strict=True))
    assert kept >= right - 1
