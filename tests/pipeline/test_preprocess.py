from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from crosscast.pipeline.preprocess import Preprocessing, pixels, values

NOISE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
IMAGENET = Preprocessing(
    scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), color="rgb"
)


def image(array: np.ndarray = NOISE) -> Image.Image:
    return Image.fromarray(array)


def test_without_steps_pixels_stay_as_they_are() -> None:
    assert np.array_equal(pixels(image(), Preprocessing()), NOISE)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos", "box"])
def test_a_number_resizes_the_shorter_side(interpolation: str) -> None:
    steps = Preprocessing(resize=20, interpolation=interpolation)  # type: ignore[arg-type]
    # 53 * 20 / 37 = 28.6, which torchvision cuts to 28
    expected = image().resize((28, 20), Image.Resampling[interpolation.upper()])
    assert np.array_equal(pixels(image(), steps), np.asarray(expected))
    turned = pixels(image(NOISE.transpose(1, 0, 2)), steps)
    assert turned.shape == (28, 20, 3)


@pytest.mark.parametrize(
    ("size", "crop", "origin"),
    [
        ((37, 53), (37, 53), (0, 0)),
        ((37, 53), (20, 20), (8, 16)),  # 8.5 and 16.5: halves go to even, as in torchvision
        ((37, 53), (30, 31), (4, 11)),
        ((37, 53), (31, 30), (3, 12)),
    ],
)
def test_a_crop_is_about_the_centre(
    size: tuple[int, int], crop: tuple[int, int], origin: tuple[int, int]
) -> None:
    (height, width), (top, left) = crop, origin
    found = pixels(image(), Preprocessing(crop=crop))
    assert np.array_equal(found, NOISE[top : top + height, left : left + width])


def test_an_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="it is 37 x 53 where 40 x 40 are cropped"):
        pixels(image(), Preprocessing(crop=(40, 40)))


def test_an_exact_size_stretches() -> None:
    assert pixels(image(), Preprocessing(resize=(8, 9))).shape == (8, 9, 3)


def test_letterbox_keeps_the_aspect_ratio_and_pads() -> None:
    steps = Preprocessing(resize=(40, 40), fit="letterbox", pad=114)
    found = pixels(image(), steps)
    inner = image().resize((40, 28), Image.Resampling.BILINEAR)
    assert np.array_equal(found[6:34], np.asarray(inner))
    assert (found[:6] == 114).all()
    assert (found[34:] == 114).all()


def test_gray_is_one_channel() -> None:
    found = pixels(image(), Preprocessing(color="gray"))
    assert np.array_equal(found[..., 0], np.asarray(image().convert("L")))
    letterbox = Preprocessing(color="gray", resize=(9, 40), fit="letterbox", pad=7)
    assert (pixels(image(), letterbox)[:, 0] == 7).all()


def test_transparency_and_palettes_become_rgb() -> None:
    for mode in ("RGBA", "LA", "P", "1", "CMYK"):
        assert pixels(image().convert(mode), Preprocessing()).shape == (37, 53, 3)


def test_the_arithmetic_is_in_float32() -> None:
    found = values(NOISE[None], IMAGENET, "float32")
    whole = (NOISE[None] / 255 - IMAGENET.mean) / IMAGENET.std
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_mean_and_std_are_in_the_order_of_color() -> None:
    bgr = Preprocessing(color="bgr", mean=(1.0, 2.0, 3.0))
    assert np.array_equal(values(NOISE, bgr, "float32"), NOISE[..., ::-1] - np.float32([1, 2, 3]))


def test_integers_stay_pixels() -> None:
    assert np.array_equal(values(NOISE, Preprocessing(), "uint8"), NOISE)
    assert values(NOISE, Preprocessing(color="bgr"), "int32").dtype == np.int32


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_range_holds_every_value(dtype: str) -> None:
    low, high = IMAGENET.range(dtype)
    ends = values(np.uint8([[[0] * 3, [255] * 3]]), IMAGENET, dtype).astype(np.float64)
    assert low - 1e-6 <= ends.min() < low + 0.01
    assert high - 0.01 < ends.max() <= high + 1e-6
    assert Preprocessing().range(dtype)[0] >= -0.13


def test_what_is_left_outside_gives_pixels() -> None:
    steps = Preprocessing(resize=9, crop=(8, 8), color="bgr", scale=0.5, mean=(1.0,), std=(2.0,))
    assert steps.outside() == Preprocessing(resize=9, crop=(8, 8))
    assert Preprocessing(color="gray", scale=0.5).outside() == Preprocessing(color="gray")


def test_json_comes_back() -> None:
    for steps in (IMAGENET, Preprocessing(resize=(3, 4), crop=(2, 2)), Preprocessing(resize=3)):
        assert Preprocessing.from_json(steps.to_json()) == steps
