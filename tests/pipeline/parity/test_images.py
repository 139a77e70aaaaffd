from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosscast.pipeline.errors import StageError, ToolchainError
from crosscast.pipeline.parity.images import Listing, image_samples
from crosscast.pipeline.preprocess import Preprocessing, pixels, values
from crosscast.pipeline.signature import Signature, Tensor

NOISE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
STEPS = {"image": Preprocessing(crop=(4, 4), scale=0.5, mean=(1.0, 2.0, 3.0))}


def signature(*shape: int | str, layout: Any = "nchw", **dims: tuple[int, int]) -> Signature:
    image = Tensor(name="image", shape=shape, dtype="float32", layout=layout)
    return Signature(inputs=(image,), dims=dims)


IMAGES = signature("batch", 3, 4, 4, batch=(1, 4))


def save(path: Path, array: np.ndarray = NOISE, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def samples(folder: Path, made: Signature = IMAGES, steps: Any = STEPS) -> list[Any]:
    return list(image_samples(Listing.of(folder), signature=made, steps=steps))


def test_images_are_found_in_order_and_other_files_counted(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/y.webp", "c.bmp", "B.jpeg"):
        save(tmp_path / name)
    for name in ("notes.txt", "a/data.csv", ".DS_Store", "a/._z.JPG"):
        (tmp_path / name).write_text("no image")
    listing = Listing.of(tmp_path)
    assert listing.images == ("B.jpeg", "a/y.webp", "a/z.JPG", "b.png", "c.bmp")
    assert listing.others == 2


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    save(tmp_path / "real/a.png")
    (tmp_path / "in/loop").parent.mkdir()
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/linked").symlink_to(tmp_path / "real")
    assert Listing.of(tmp_path / "in").images == ("linked/a.png",)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StageError, match="holds no image among its 1 files"):
        Listing.of(tmp_path)


def test_a_sample_is_the_preprocessed_image(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    steps = STEPS["image"]
    expected = values(pixels(Image.fromarray(NOISE), steps)[None], steps, "float32")
    ((name, sample),) = samples(tmp_path)
    assert name == "a.png"
    assert np.array_equal(sample["image"], expected.transpose(0, 3, 1, 2))
    ((_, sample),) = samples(tmp_path, signature(1, 4, 4, 3, layout="nhwc"))
    assert np.array_equal(sample["image"], expected)


def test_the_orientation_of_exif_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees
    save(tmp_path / "a.png", exif=exif)
    made = signature(1, 12, 8, 3, layout="nhwc")
    ((_, sample),) = samples(tmp_path, made, {"image": Preprocessing()})
    assert np.array_equal(sample["image"][0], np.rot90(NOISE, -1))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_a_broken_image_is_named(tmp_path: Path, content: bytes) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.png").write_bytes(content)
    with pytest.raises(StageError, match=r"image 'sub/b\.png' in .* cannot be used"):
        samples(tmp_path)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(StageError, match=r"image 'a\.png' .*truncated"):
        samples(tmp_path)


def test_without_pillow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ToolchainError) as caught:
        samples(tmp_path)
    assert caught.value.fix == "pip install 'crosscast[images]'"


def test_an_image_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", NOISE[:3])
    with pytest.raises(StageError, match=r"'a\.png' .* it is 3 x 12 where 4 x 4 are cropped"):
        samples(tmp_path)


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint16))
    with pytest.raises(StageError, match="more than 8 bits a channel"):
        samples(tmp_path)


def test_a_batch_that_is_never_1_gets_several_images(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / f"{index}.png", NOISE + np.uint8(index))
    found = samples(tmp_path, signature("n", 3, 4, 4, n=(2, 4)))
    assert [name for name, _ in found] == ["0.png, 1.png", "2.png"]
    assert [sample["image"].shape for _, sample in found] == [(2, 3, 4, 4)] * 2
    (whole,) = samples(tmp_path, signature(3, 3, 4, 4))
    assert whole[1]["image"].shape == (3, 3, 4, 4)


def test_images_of_different_sizes_are_no_batch(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", NOISE[:6])
    made = signature(2, 3, "h", "w", h=(1, 99), w=(1, 99))
    with pytest.raises(StageError, match="have different sizes"):
        samples(tmp_path, made, {"image": Preprocessing()})


def test_a_folder_feeds_one_image_and_nothing_else(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    other = Tensor(name="scale", shape=(1,), dtype="float32")
    two = Signature(inputs=(*IMAGES.inputs, other), dims=IMAGES.dims)
    for made, steps in ((two, STEPS), (IMAGES, {})):
        with pytest.raises(StageError, match="feeds one input with a declared `preprocess`"):
            samples(tmp_path, made, steps)
