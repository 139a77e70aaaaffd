"""A page of scanned text that ships in scikit-image, prepared as PP-OCR wants it."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

PAGE = "skimage/data/page.png"
STEP = 32
"""Sides of the detector's images are multiples of it: it halves them five times."""

HEIGHT, WIDTH = 48, 832
"""Of the recogniser's lines; shorter ones are padded with zeros."""


def pages() -> Iterator[dict[str, np.ndarray]]:
    """The page, and its upper and lower half magnified: for the detector of text."""
    image = page()
    width, height = (side // STEP * STEP for side in image.size)
    yield {"x": prepare(image.resize((width, height), Image.Resampling.BILINEAR))}
    for top in (0, 95):
        half = image.crop((0, top, image.width, top + 96))
        yield {"x": prepare(half.resize((576, 160), Image.Resampling.BICUBIC))}


def lines() -> Iterator[dict[str, np.ndarray]]:
    """The lines of print on the page, from the top: for the recogniser."""
    for line in cut_lines(page()):
        width = min(WIDTH, round(line.width * HEIGHT / line.height))
        read = prepare(line.resize((width, HEIGHT), Image.Resampling.BICUBIC))
        yield {"x": np.pad(read, [(0, 0), (0, 0), (0, 0), (0, WIDTH - width)])}


def cut_lines(image: Image.Image) -> list[Image.Image]:
    """The lines that go from edge to edge: where many pixels are darker than the paper there."""
    grey = image.convert("L")
    paper = np.asarray(grey.filter(ImageFilter.GaussianBlur(12)), np.float32)
    dark = (np.asarray(grey, np.float32) < paper - 20).sum(axis=1)
    changes = np.diff(np.concatenate([[0], (dark >= 60).astype(int), [0]]))
    starts, ends = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)
    return [
        image.crop((0, max(0, start - 6), image.width, end + 6))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        if end - start >= 8
    ]


def prepare(image: Image.Image) -> np.ndarray:
    """float32[1, 3, height, width] in [-1, 1], blue first."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)[..., ::-1]
    return np.ascontiguousarray(((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None])


def page() -> Image.Image:
    """191 rows of 384 pixels: print on paper in uneven light."""
    return load(PAGE)


def load(name: str) -> Image.Image:
    """An image by its path below the package that ships it."""
    package, _, path = name.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{name}: install scikit-image for these images")
    return Image.open(Path(spec.submodule_search_locations[0]) / path).convert("RGB")
