"""Real 32x32 photos that ship in foolbox, prepared as ResNet8 wants; see models.txt."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parent / "models/foolbox/data"


def parity() -> Iterator[dict[str, np.ndarray]]:
    """The twenty photos of CIFAR-10; their classes are told by `labels`."""
    for path in photos("cifar10"):
        yield {"image": prepare(path)}


def calibration() -> Iterator[dict[str, np.ndarray]]:
    """The twenty photos of CIFAR-100: other photos of the same kind."""
    for path in photos("cifar100"):
        yield {"image": prepare(path)}


def labels() -> list[int]:
    """The classes of the photos of `parity`, in order."""
    return [int(path.stem.rpartition("_")[2]) for path in photos("cifar10")]


def photos(dataset: str) -> list[Path]:
    """Named <dataset>_<number>_<class>.png."""
    found = sorted(DATA.glob(f"{dataset}_*.png"))
    if not found:
        raise FileNotFoundError(f"{DATA} has no {dataset} photos: fetch them with `make demo`")
    return found


def prepare(path: Path) -> np.ndarray:
    """Gives float32[1, 32, 32, 3], RGB, in [-1, 1)."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
    return (pixels[None] - 128) / 128
