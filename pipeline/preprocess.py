"""How an image becomes a model's input: its steps, their arithmetic, the range they give.

An image is decoded to 8 bits a channel with its EXIF orientation applied, brought to RGB or gray
(transparency is dropped), resized, and cropped about its centre; its channels are put in the order
of `color`; then x = (pixels * scale - mean) / std in float32, in the input's dtype and layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Color = Literal["rgb", "bgr", "gray"]
Fit = Literal["stretch", "letterbox"]
Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos", "box"]

WHITE = 255

FLOAT16_STEP = 2.0**-11
"""Of a value: what rounding it to float16 may add."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The steps from an image to an input, in the order in which they are taken.

    resize: the shorter side, the longer one being floor(resize * longer / shorter); or exactly
        (height, width); None for no resizing. By Pillow, antialiased but for "nearest".
    fit: what (height, width) does to another aspect ratio: "stretch", or "letterbox", which scales
        the image to fit, centres it and fills the rest with `pad`.
    crop: (height, width) about the centre; the first row is round((rows - height) / 2), with
        halves to even; columns alike.
    mean, std: one for each channel, in the order of `color`; empty for none.
    """

    resize: int | tuple[int, int] | None = None
    fit: Fit = "stretch"
    pad: int = 0
    interpolation: Interpolation = "bilinear"
    crop: tuple[int, int] | None = None
    color: Color = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def channels(self) -> int:
        """How many channels it gives."""
        return 1 if self.color == "gray" else 3

    @property
    def is_arithmetic(self) -> bool:
        """Whether it changes values: integers cannot hold the result."""
        return self.scale != 1.0 or bool(self.mean) or bool(self.std)

    def size(self) -> tuple[int, int] | None:
        """The (height, width) of every image after it; None where that depends on the image."""
        if self.crop is not None:
            return self.crop
        return None if isinstance(self.resize, int) else self.resize

    def range(self, dtype: str) -> tuple[float, float]:
        """The least and greatest value that it can give in `dtype`, over all channels."""
        means, stds = self.mean or (0.0,), self.std or (1.0,)
        count = max(len(means), len(stds))
        pairs = zip(means * (count // len(means)), stds * (count // len(stds)), strict=True)
        ends = [(pixel * self.scale - mean) / std for mean, std in pairs for pixel in (0.0, WHITE)]
        slack = FLOAT16_STEP * max(map(abs, ends)) if dtype == "float16" else 0.0
        return min(ends) - slack, max(ends) + slack

    def outside(self) -> Preprocessing:
        """What is left to do for a model that does the arithmetic and order of colours itself."""
        color: Color = "gray" if self.color == "gray" else "rgb"
        return replace(self, color=color, scale=1.0, mean=(), std=())

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        pairs = {key: tuple(part) for key, part in value.items() if isinstance(part, list)}
        return cls(**{**value, **pairs})


def pixels(image: Image, steps: Preprocessing) -> NDArray[np.uint8]:
    """uint8[height, width, channels], RGB or gray: the image resized and cropped.

    image: with its orientation applied. Raises ValueError where it is smaller than the crop.
    """
    import numpy as np

    image = image.convert("L" if steps.color == "gray" else "RGB")
    if steps.resize is not None:
        image = _resized(image, steps)
    if steps.crop is not None:
        image = _cropped(image, steps.crop)
    return np.asarray(image, np.uint8).reshape(image.height, image.width, steps.channels)


def values(images: NDArray[np.uint8], steps: Preprocessing, dtype: str) -> NDArray[Any]:
    """What `pixels` gave, or several of them stacked, in the order of `color`, after the
    arithmetic, in `dtype`. Channels stay last.
    """
    import numpy as np

    ordered = images[..., ::-1] if steps.color == "bgr" else images
    if not steps.is_arithmetic:
        return np.ascontiguousarray(ordered, dtype=dtype)
    result: NDArray[Any] = ordered.astype(np.float32) * np.float32(steps.scale)
    if steps.mean:
        result = result - np.asarray(steps.mean, np.float32)
    if steps.std:
        result = result / np.asarray(steps.std, np.float32)
    return np.ascontiguousarray(result, dtype=dtype)


def _resized(image: Image, steps: Preprocessing) -> Image:
    from PIL import Image as pillow

    resample = pillow.Resampling[steps.interpolation.upper()]
    width, height = image.size
    if isinstance(steps.resize, int):
        short = min(image.size)
        sides = [int(steps.resize * side / short) for side in image.size]
        return image.resize((sides[0], sides[1]), resample)
    assert steps.resize is not None
    rows, columns = steps.resize
    if steps.fit == "stretch":
        return image.resize((columns, rows), resample)
    ratio = min(rows / height, columns / width)
    inner = max(1, round(width * ratio)), max(1, round(height * ratio))
    canvas = pillow.new(image.mode, (columns, rows), (steps.pad,) * steps.channels)
    canvas.paste(image.resize(inner, resample), ((columns - inner[0]) // 2, (rows - inner[1]) // 2))
    return canvas


def _cropped(image: Image, size: tuple[int, int]) -> Image:
    height, width = size
    if image.height < height or image.width < width:
        raise ValueError(
            f"it is {image.height} x {image.width} where {height} x {width} are cropped"
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
