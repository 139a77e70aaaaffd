from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.schema import Config
from crosscast.pipeline.errors import ConfigError
from crosscast.pipeline.preprocess import Preprocessing

HEAD = "model: m\nversion: 1.0.0\nsource: {torch: net.py:build}\n"
SHAPE = "shape: [batch, 3, 224, 224], dtype: float32"
TARGETS = "targets: {onnx: {}}\n"

Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Load a config with one image input that has those keys."""
    (tmp_path / "net.py").write_text("def build(): ...\ndef one(): ...\ndef two(): ...\n")
    for name in ("photos/inner", "more", "empty.npz"):
        (tmp_path / name).mkdir(parents=True)

    def text(keys: str, *, shape: str = SHAPE, rest: str = TARGETS) -> Config:
        path = tmp_path / "c.yaml"
        path.write_text(f"{HEAD}inputs:\n  image: {{{shape}, {keys}}}\n{rest}")
        return load(path)

    return text


def refused(read: Read, *words: str, **more: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(*words, **more)
    return str(caught.value).partition("c.yaml:")[2]


def test_all_keys(read: Read) -> None:
    config = read(
        "preprocess: {resize: 256, interpolation: bicubic, crop: 224, color: bgr, scale: 1/255, "
        "mean: [0.485, 0.456, 0.406], std: 0.5}"
    )
    assert config.preprocessing() == {
        "image": Preprocessing(
            resize=256,
            interpolation="bicubic",
            crop=(224, 224),
            color="bgr",
            scale=1 / 255,
            mean=(0.485, 0.456, 0.406),
            std=(0.5,),
        )
    }
    (tensor,) = config.signature().inputs
    assert tensor.range == pytest.approx((-0.97, (1 - 0.406) / 0.5))


def test_letterbox(read: Read) -> None:
    config = read("preprocess: {resize: [224, 224], fit: letterbox, pad: 114}")
    assert config.preprocessing()["image"].size() == (224, 224)


def test_a_declared_range_is_kept(read: Read) -> None:
    config = read("range: [-2, 2], preprocess: {crop: 224, scale: 1/255}")
    assert config.signature().inputs[0].range == (-2, 2)


@pytest.mark.parametrize(
    ("shape", "color", "layout"),
    [
        ("shape: [1, 3, 8, 8], dtype: float32", "rgb", "nchw"),
        ("shape: [1, 8, 8, 3], dtype: float32", "rgb", "nhwc"),
        ("shape: [1, 8, 8, 3], dtype: uint8", "rgb", "nhwc"),
        ("shape: [1, 8, 8, 1], dtype: uint8", "gray", "nhwc"),
        ("shape: [n, 1, 8, 8], dtype: uint8", "gray", "nchw"),
        ("shape: [n, c, 8, 8], dtype: float32", "rgb", "nchw"),
    ],
)
def test_the_channels_tell_the_layout(read: Read, shape: str, color: str, layout: str) -> None:
    config = read(f"preprocess: {{resize: [8, 8], color: {color}}}", shape=shape)
    assert config.signature().inputs[0].layout == layout


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("crop: 192", "it gives images of 192 x 192, the input's shape is [batch, 3, 224, 224]"),
        ("resize: 224", "it gives images of any x any"),
        ("scale: 1/255", "it gives images of any x any"),
        ("resize: 200, crop: 224", "224 is more than 'resize' leaves of every image"),
        ("resize: [256, 200], crop: 224", "224 is more than 'resize' leaves"),
        ("crop: 224, color: gray", "gray has 1 channels; the input's shape is"),
        ("crop: 224, mean: [1, 2]", "mean: expected 3 for rgb, or one number for all, got [1, 2]"),
        ("crop: 224, std: 0", "std: expected more than 0"),
        ("crop: 224, std: [1, 1, -1]", "std[2]: expected more than 0"),
        ("crop: 224, scale: 1/0", "scale: expected a number or a fraction such as '1/255'"),
        ("crop: 224, scale: x", "scale: expected a number or a fraction such as '1/255', got 'x'"),
        ("crop: 224, resize: 256, fit: letterbox", "letterbox needs 'resize: [height, width]'"),
        ("crop: 224, interpolation: linear", "did you mean 'bilinear'?"),
        ("crop: 224, colour: rgb", "unknown key; did you mean 'color'?"),
    ],
)
def test_what_cannot_be_is_told(read: Read, keys: str, expected: str) -> None:
    text = refused(read, f"preprocess: {{{keys}}}")
    assert text.startswith("5:")
    assert "inputs.image.preprocess" in text
    assert expected in text


@pytest.mark.parametrize(
    ("shape", "keys", "expected"),
    [
        ("shape: [1, 5], dtype: float32", "crop: 5", "only an input of 4 dimensions is an image"),
        ("shape: [1, 3, 8, 8], dtype: int8", "crop: 8", "an image cannot become int8"),
        ("shape: [1, 3, 8, 8], dtype: string", "crop: 8", "an image cannot become string"),
        ("shape: [1, 3, 8, 8], dtype: uint8", "crop: 8, mean: 1", "need a float input"),
        (
            "shape: [1, 3, 8, 8], dtype: float32, range: [-1, 1]",
            "crop: 8, scale: 1/127.5",
            "it gives values from 0 to 2, which the input's range [-1, 1] does not hold",
        ),
        ("shape: [1, 8, 8, 3], dtype: uint8, layout: nchw", "crop: 8", "rgb has 3 channels"),
    ],
)
def test_inputs_that_no_image_can_be(read: Read, shape: str, keys: str, expected: str) -> None:
    assert expected in refused(read, f"preprocess: {{{keys}}}", shape=shape)


CROP = "preprocess: {crop: 224}"
INT8 = "targets: {onnx-int8: {}}\n"


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ("parity: net.py:one, calibration: net.py:one", "the same samples as 'parity'"),
        ("parity: photos, calibration: photos/", "the same samples as 'parity'"),
        ("parity: photos/inner, calibration: photos", "lie in each other"),
        ("parity: photos, calibration: photos/inner", "lie in each other"),
        ("parity: synthetic, calibration: more", "parity: leave this key out"),
        ("parity: gone, calibration: more", "parity: no such file or folder: 'gone'"),
        ("parity: net.py, calibration: more", "a folder of images, got 'net.py'"),
        ("parity: photos, calibration: synthetc", "no such file or folder: 'synthetc'"),
        ("calibration: empty.npz", "this is a directory, not a file"),
    ],
)
def test_samples_that_cannot_be(read: Read, samples: str, expected: str) -> None:
    text = refused(read, CROP, rest=f"samples: {{{samples}}}\n{INT8}")
    assert text.startswith("6:")
    assert expected in text


@pytest.mark.parametrize(
    "samples",
    [
        "parity: photos, calibration: more",
        "parity: net.py:one, calibration: net.py:two",
        "parity: photos, calibration: synthetic",
        "calibration: synthetic",
    ],
)
def test_samples_that_can_be(read: Read, samples: str) -> None:
    read(CROP, rest=f"samples: {{{samples}}}\n{INT8}")


def test_a_folder_needs_a_preprocess(read: Read) -> None:
    text = refused(read, "range: [0, 1]", rest=f"samples: {{parity: photos}}\n{TARGETS}")
    assert "samples.parity: a folder of images needs a 'preprocess' of the input" in text


def test_a_folder_feeds_one_input(read: Read) -> None:
    rest = f"  size: {{shape: [2], dtype: int64}}\nsamples: {{parity: photos}}\n{TARGETS}"
    text = refused(read, CROP, rest=rest)
    assert "feeds one input, this model has 'image' and 'size'" in text


def test_a_fold_needs_a_preprocess(read: Read) -> None:
    text = refused(read, "range: [0, 1]", rest="targets: {onnx: {preprocess: fold}}\n")
    assert "targets.onnx.preprocess: no input declares a 'preprocess'" in text


def test_an_image_of_core_ml_has_no_layout(read: Read) -> None:
    rest = "targets: {coreml-fp16: {preprocess: fold, layout: nchw}}\n"
    assert "contradicts 'layout': Core ML's images have none" in refused(read, CROP, rest=rest)
    read(CROP, rest=rest.replace("nchw", "nhwc"))


def test_a_fold_is_done_in_an_onnx_graph(read: Read) -> None:
    rest = "targets: {coreml-fp16: {preprocess: fold, via: exported_program}}\n"
    assert "contradicts 'via': it is done in an ONNX graph" in refused(read, CROP, rest=rest)
    read(CROP, rest=rest.replace("exported_program", "onnx"))


def test_a_fold_contradicts_io(read: Read) -> None:
    rest = "targets: {onnx-fp16: {preprocess: fold, io: float16}}\n"
    assert "contradicts 'io'" in refused(read, CROP, rest=rest)
