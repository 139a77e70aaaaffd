"""Real photos that ship in scikit-image and scikit-learn, prepared as EfficientNet-Lite0 wants."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

PARITY = (
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/flower.jpg",
    "sklearn/datasets/images/china.jpg",
    "skimage/data/motorcycle_left.png",
)
CALIBRATION = (
    "skimage/data/astronaut.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/retina.jpg",
    "skimage/data/camera.png",
    "skimage/data/grass.png",
    "skimage/data/coins.png",
    "skimage/data/color.png",
)


def parity() -> Iterator[dict[str, np.ndarray]]:
    """Six photos of things that ImageNet has classes for."""
    for name in PARITY:
        yield {"image": prepare(load(name))}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """Other photos than those of `parity`, each as it is and mirrored."""
    for name in CALIBRATION:
        image = prepare(load(name))
        yield {"image": image}
        yield {"image": np.ascontiguousarray(image[..., ::-1])}


def load(name: str) -> Image.Image:
    """A photo by its path below the package that ships it."""
    package, _, path = name.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{name}: install scikit-image and scikit-learn for these photos")
    return Image.open(Path(spec.submodule_search_locations[0]) / path).convert("RGB")


def prepare(image: Image.Image) -> np.ndarray:
    """Resize to 256 (bicubic, short side), crop the centre 224, scale to [-1, 1].

    Gives float32[1, 3, 224, 224], RGB.
    """
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - 224) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32)
    return np.ascontiguousarray(((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None])
