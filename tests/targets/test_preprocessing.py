from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosscast.pipeline.preprocess import Preprocessing, pixels, values
from crosscast.pipeline.report.artifact import describe
from crosscast.targets import TARGETS
from crosscast.targets.families.preprocessing import blocks, line, words

NOISE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
STEPS = {
    "as it is": Preprocessing(),
    "classifier": Preprocessing(
        resize=20,
        crop=(16, 18),
        interpolation="bicubic",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "letterbox": Preprocessing(resize=(24, 24), fit="letterbox", pad=114, scale=1 / 255),
    "gray letterbox": Preprocessing(resize=(24, 24), fit="letterbox", pad=9, color="gray"),
    "gray": Preprocessing(resize=(9, 7), color="gray", mean=(127.5,), std=(127.5,)),
    "bgr": Preprocessing(color="bgr", interpolation="nearest", mean=(1.0, 2.0, 3.0)),
}


def manifest(steps: Preprocessing, *, folded: Any = None, **more: Any) -> dict[str, Any]:
    channels = 1 if steps.color == "gray" else 3
    tensor = {
        "name": "my image",
        "shape": ["batch", channels, "h", "w"],
        "dtype": "float32",
        "layout": "nchw",
        "quantization": None,
    }
    return {
        "model": "m",
        "version": "1.0.0",
        "target": "t",
        "files": [{"path": "model.x"}],
        "inputs": [tensor | more],
        "outputs": [{"name": "y", "shape": [1], "dtype": "float32", "layout": None}],
        "preprocessing": {"my image": {**steps.to_json(), "folded": folded}},
    }


def prepared(made: dict[str, Any], tmp_path: Path) -> np.ndarray:
    ((title, _, code),) = blocks(made, "python")
    assert title == "Preprocessing of `my image` in Python (Pillow, numpy)"
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    found: np.ndarray = namespace["prepare_my_image"](tmp_path / "a.png")
    return found


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_python_code_does_what_the_samples_had_done(
    steps: Preprocessing, layout: str, tmp_path: Path
) -> None:
    expected = values(pixels(Image.fromarray(NOISE), steps)[None], steps, "float32")
    if layout == "nchw":
        expected = expected.transpose(0, 3, 1, 2)
    found = prepared(manifest(steps, layout=layout), tmp_path)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_the_python_code_quantizes(tmp_path: Path) -> None:
    steps = Preprocessing(scale=1 / 255)
    made = manifest(steps, dtype="int8", quantization=[1 / 255, -128], layout="nhwc")
    found = prepared(made, tmp_path)
    assert found.dtype == np.int8
    assert np.array_equal(found[0].astype(int), NOISE.astype(int) - 128)
    assert "int8: round(x / 0.00392156863) + -128, clipped to its limits" in words(made)


def test_words() -> None:
    text = words(manifest(STEPS["classifier"]))
    assert text.splitlines()[:9] == [
        "## Preprocessing",
        "",
        "`my image` is made of an image:",
        "",
        "1. Decode it to 8 bits a channel, apply its EXIF orientation, convert it to RGB "
        "(transparency is dropped).",
        "2. Resize its shorter side to 20, keeping its aspect ratio "
        "(bicubic, antialiased as by Pillow).",
        "3. Crop the centre, 16 x 18.",
        "4. In float32: x = (pixel * 0.00392156863 - [0.485, 0.456, 0.406]) / "
        "[0.229, 0.224, 0.225].",
        "5. Lay it out as nchw, batch x 3 x h x w, float32.",
    ]
    assert "blue, green, red" in words(manifest(STEPS["bgr"]))
    assert "pad with 114" in words(manifest(STEPS["letterbox"]))
    assert words({"inputs": []}) == ""


def test_a_fold_says_what_is_left_and_what_the_model_does() -> None:
    steps = STEPS["classifier"]
    folded = {"color": "bgr", "scale": 1 / 255, "mean": [0.5], "std": []}
    made = manifest(steps.outside(), folded=folded, dtype="uint8", layout="nhwc")
    text = words(made)
    assert "In float32" not in text
    assert "the model itself does the rest (channels blue, green, red, x = (pixel * " in text
    assert line(made["preprocessing"]["my image"]).endswith(
        "crop the centre, 16 x 18, rgb; in the model: bgr, * 0.00392156863, - 0.5"
    )


@pytest.mark.parametrize("language", ["js", "kotlin", "java", "swift"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_code_in_other_languages_is_whole(language: str, steps: Preprocessing) -> None:
    for dtype in ("float32", "uint8"):
        ((_, tag, code),) = blocks(manifest(steps, dtype=dtype), language)
        assert tag == language
        assert code.count("{") == code.count("}")
        assert code.count("(") == code.count(")")
        assert "prepare_my_image" in code
        assert ("mean[c]" in code) is bool(steps.mean)


def test_every_familys_note_tells_it() -> None:
    made = manifest(STEPS["classifier"]) | {"calibration": {"origin": "synthetic"}}
    for name, target in TARGETS.items():
        note = target.usage(manifest=made)
        assert "## Preprocessing\n" in note, name
        assert "def prepare_my_image" in note, name
        assert note.count("## Preprocessing of `my image` in") >= 2, name
        assert "on no real ones" in note, name
        bare = target.usage(manifest={**made, "preprocessing": {}, "calibration": None})
        assert "reprocessing" not in bare, name
        assert "on no real ones" not in bare, name


def test_show_tells_it() -> None:
    made = manifest(STEPS["gray"]) | {
        "verdict": {"status": "passed", "reason": ""},
        "files": [],
        "tools": {},
        "calibration": {"origin": "real", "cases": 8, "sha256": "ab"},
    }
    lines = describe(made).splitlines()
    assert (
        "preprocessing of my image: resize it to 9 x 7 (bilinear, antialiased as by Pillow), "
        "gray, - 127.5, / 127.5" in lines
    )
    assert "calibration: 8 real samples, sha256:ab" in lines
