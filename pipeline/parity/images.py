"""A folder of images as samples: found, read one at a time, preprocessed as the config declares."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError, ToolchainError
from crosscast.pipeline.preprocess import Preprocessing, pixels, values
from crosscast.pipeline.signature import Arrays, Signature, Tensor, permute

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of a folder, sorted by their paths in it, and the number of its other files.

    Sub-folders are searched; what has a name that starts with a dot is passed over uncounted.
    """

    folder: Path
    images: tuple[str, ...]
    others: int

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """Look. Raises StageError where there is no image."""
        names = sorted(_files(folder))
        images = tuple(name for name in names if name.lower().endswith(SUFFIXES))
        if not images:
            raise StageError(
                f"{folder}: holds no image among its {len(names)} files",
                fix=f"put images there ({', '.join(SUFFIXES)}), or leave samples out",
            )
        return cls(folder=folder, images=images, others=len(names) - len(images))


def image_samples(
    listing: Listing, *, signature: Signature, steps: Mapping[str, Preprocessing]
) -> Iterator[tuple[str, Arrays]]:
    """Each image's path in the folder, and the sample that it makes.

    An input whose batch is never 1 gets its least number of images, and the paths of all of them;
    the last ones are completed by images of the same sample. Raises StageError for an image that
    cannot be read or is too small, and for a model that has other inputs than one image.
    """
    tensor = _image_input(signature, steps)
    least = _least(tensor.shape[0], signature)
    names = iter(listing.images)
    while chosen := list(islice(names, least)):
        filled = list(islice(cycle(chosen), least))
        yield ", ".join(chosen), _sample(listing.folder, filled, tensor, steps[tensor.name])


def _sample(folder: Path, names: list[str], tensor: Tensor, steps: Preprocessing) -> Arrays:
    images = [_pixels(folder, name, steps) for name in names]
    if len({image.shape for image in images}) > 1:
        raise StageError(
            f"the images {', '.join(names)} have different sizes, but are fed in one batch",
            fix="declare a `crop`, or a `resize: [height, width]`, in the input's preprocess",
        )
    stacked = values(np.stack(images), steps, tensor.dtype)
    last = Tensor(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, layout="nhwc")
    return permute({tensor.name: stacked}, tensors=(last,), layout=tensor.layout)


def _pixels(folder: Path, name: str, steps: Preprocessing) -> NDArray[np.uint8]:
    try:
        return pixels(_read(folder / name), steps)
    except (ToolchainError, MemoryError):
        raise
    except Exception as error:  # a broken file may raise whatever its decoder likes
        raise StageError(
            f"image '{name}' in {folder} cannot be used: {error}",
            fix="replace it, or take it out of the folder",
        ) from error


def _read(path: Path) -> Image:
    """The image with its EXIF orientation applied."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ToolchainError(
            "a folder of images is read with Pillow, which is not installed",
            fix="pip install 'crosscast[images]'",
        ) from error
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits a channel (Pillow's mode {image.mode})")
        return ImageOps.exif_transpose(image)


def _image_input(signature: Signature, steps: Mapping[str, Preprocessing]) -> Tensor:
    others = [tensor.name for tensor in signature.inputs if tensor.name not in steps]
    if others or len(signature.inputs) != 1:
        names = ", ".join(f"'{tensor.name}'" for tensor in signature.inputs)
        raise StageError(
            "a folder of images feeds one input with a declared `preprocess`; "
            f"the model has {names}",
            fix="give 'file.py:function' or an .npz with all inputs",
        )
    return signature.inputs[0]


def _least(dim: int | str, signature: Signature) -> int:
    return dim if isinstance(dim, int) else signature.dims.get(dim, (1, 1))[0]


def _files(folder: Path) -> Iterator[str]:
    """The paths below a folder, with `/`. Links are followed, but not in circles."""
    seen: set[Path] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        yield from (
            (here / name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".")
        )
