from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.preprocess import Preprocessing
from crosscast.targets.families.coreml_usage import usage

FOLDED = {"color": "bgr", "scale": 1.0, "mean": (), "std": ()}


def manifest(labels: list[str] | None, *, channels: int = 3, more: bool = False) -> dict[str, Any]:
    steps = Preprocessing(resize=(8, 6), color="rgb" if channels == 3 else "gray")
    size = {"name": "sizes of it", "shape": ["batch", 2], "dtype": "int32", "layout": None}
    return {
        "model": "m",
        "version": "1.0.0",
        "target": "coreml-fp16",
        "format": "coreml",
        "files": [{"path": "model.mlpackage/Data/x"}],
        "inputs": [
            {"name": "x", "shape": ["batch", 8, 6, channels], "dtype": "uint8", "layout": "nhwc"},
            *([size] if more else []),
        ],
        "outputs": [
            {"name": "y", "shape": ["batch", 2], "dtype": "float32", "layout": None},
            *([{**size, "name": "z"}] if more else []),
        ],
        "preprocessing": {"x": {**steps.to_json(), "folded": FOLDED}},
        "labels": labels and {"output": "y", "names": labels},
    }


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_an_image_is_fed_as_an_image() -> None:
    text = usage(manifest=manifest(["ant", "bee"]))
    swift, vision = blocks(text, "swift")
    assert '"x": try MLFeatureValue(cgImage: x, constraint: xConstraint),' in swift
    assert 'outputs.featureValue(for: "classLabel")!.stringValue' in swift
    assert "multiArrayValue" not in swift
    assert "VNClassificationObservation" in vision
    assert "imageCropAndScaleOption = .scaleFill" in vision
    assert "Feed it as an image." in text
    assert "where `batch` stands above, 1 is meant" in text
    assert "prepare_x" in blocks(text, "python")[1]


def test_an_image_beside_other_inputs_is_none_for_vision() -> None:
    text = usage(manifest=manifest(None, more=True))
    (swift,) = blocks(text, "swift")
    assert '"sizes_of_it": try MLMultiArray(shape: [1, 2], dataType: .int32),' in swift
    assert 'for name in ["y", "z"]' in swift
    assert "classLabel" not in text


@pytest.mark.parametrize("channels", [1, 3])
def test_the_snippet_takes_one_of_several(channels: int) -> None:
    code = blocks(usage(manifest=manifest(None, channels=channels, more=True)), "python")[0]
    lines = code[code.index("inputs = {") : code.index("if sys")]
    pixels = np.arange(2 * 48 * channels, dtype=np.uint8).reshape(2, 8, 6, channels)
    from PIL import Image

    scope: dict[str, Any] = {
        "Image": Image,
        "vectors": {"0/in/x": pixels, "0/in/sizes of it": np.int64([[1, 2], [3, 4]])},
    }
    exec(lines, scope)
    assert np.asarray(scope["inputs"]["x"]).tolist() == pixels[0].squeeze().tolist()
    assert scope["inputs"]["sizes_of_it"].tolist() == [[1, 2]]
    assert scope["inputs"]["sizes_of_it"].dtype == np.int32


def test_every_python_block_compiles() -> None:
    for labels in (None, ["ant", "bee"]):
        for more in (False, True):
            for code in blocks(usage(manifest=manifest(labels, more=more)), "python"):
                compile(code, "USAGE.md", "exec")


def test_the_processors_are_those_of_the_config() -> None:
    (plain,) = [it for it in blocks(usage(manifest=manifest(None)), "swift") if "MLModelConf" in it]
    assert "computeUnits = .all\n" in plain
    chosen = {**manifest(None), "options": {"compute_units": "cpu_and_ne"}}
    assert "computeUnits = .cpuAndNeuralEngine\n" in usage(manifest=chosen)
