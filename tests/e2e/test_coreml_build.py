"""Core ML packages by the command, from sources that PyTorch's and TensorFlow's front ends alone
get wrong.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli import crosscast

from crosscast.targets.families import coreml

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.e2e]
pytest.importorskip("coremltools")

NETS = '''
def tagger():
    """Tokens to a tag and its score: integers of 64 bits in and out, a sequence of any length."""
    import torch

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(50, 16)
            self.layer = torch.nn.GRU(16, 16, batch_first=True)
            self.head = torch.nn.Linear(16, 4)

        def forward(self, ids, mask):
            hidden = self.table(ids) * torch.where(mask > 0, 1.0, 0.0)[..., None]
            scores = self.head(self.layer(hidden)[0])
            return {"scores": scores, "tags": scores.argmax(-1)}

    torch.manual_seed(0)
    return Tagger()


def shares():
    """Shares of a sum, 0 where there is nothing to share."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, 8], tf.float32, name="x")])
    def run(x):
        positive = tf.nn.relu(x)
        return {"y": tf.math.divide_no_nan(positive, tf.reduce_sum(positive, -1, keepdims=True))}

    return run


def tiny():
    """What fp16 cannot compute: a mean of squares of 1e-5."""
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(16, 16)

        def forward(self, x):
            h = self.head(x) * 1e-5
            return h / (h * h).mean(-1, keepdim=True).sqrt()

    torch.manual_seed(0)
    return Tiny()
'''
CONFIGS = {
    "tagger": """
source: {torch: nets.py:tagger}
inputs:
  ids: {shape: [batch, length], dtype: int64, range: [0, 49], batch: [1, 2], length: [1, 9]}
  mask: {shape: [batch, length], dtype: int64, range: [0, 1]}
""",
    "shares": """
source: {tensorflow: nets.py:shares}
inputs:
  x: {shape: [1, 8], dtype: float32, range: [-1, 1]}
""",
    "tiny": """
source: {torch: nets.py:tiny}
inputs:
  x: {shape: [2, 16], dtype: float32, range: [-1, 1]}
""",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_build_is_proven(name: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    config = tmp_path / "config.yaml"
    text = f"model: {name}\nversion: 1.0.0\n{CONFIGS[name]}targets: {{coreml-fp16: {{}}}}\n"
    config.write_text(text)
    done = crosscast("build", config, "--out", tmp_path / "out", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = tmp_path / "out" / name / "1.0.0/coreml-fp16"
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["verdict"]["status"] == "passed"
    tensors = (*manifest["inputs"], *manifest["outputs"])
    dtypes = {one["name"]: one["dtype"] for one in tensors}
    wanted = {
        "tagger": {"ids": "int32", "mask": "int32", "scores": "float32", "tags": "int32"},
        "shares": {"x": "float32", "y": "float32"},
        "tiny": {"x": "float32"},
    }[name]
    assert dtypes.items() >= wanted.items()
    kept = manifest["precision"].get("kept_in_float")
    assert (kept is not None) == (name == "tiny")
    assert ("underflows fp16" in manifest["said"]) == (name == "tiny")
    again = crosscast("verify", artifact, cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr


SEEING = '''
def seeing():
    """Convolutions over an image, and a head."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )
'''
SEEN = """
model: seeing
version: 1.0.0
source: {torch: nets.py:seeing}
inputs:
  x: {shape: [1, 3, 32, 32], dtype: float32, range: [0, 1]}
"""
COMPRESSED = {
    "coreml-fp32: {}": {"float32"},
    "coreml-int8: {}": {"int8", "float16"},
    "coreml-int8: {quantize: {mode: palettized, bits: 6}}": {"uint6", "float16"},
    "coreml-int4: {}": {"uint4", "float16"},
    "coreml-int4: {minimum: iOS18, quantize: {group: 8}}": {"uint4", "float16"},
}


@pytest.mark.parametrize("target", COMPRESSED)
def test_weights_of_each_precision_are_proven(target: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "nets.py").write_text(SEEING)
    config = tmp_path / "config.yaml"
    config.write_text(f"{SEEN}targets: {{{target}}}\n")
    done = crosscast("build", config, "--out", tmp_path / "out", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = tmp_path / "out/seeing/1.0.0" / target.partition(":")[0]
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["verdict"]["status"] == "passed"
    assert set(manifest["precision"]["weights"]) == COMPRESSED[target]


def test_palettes_of_groups_need_a_system_that_has_them(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "nets.py").write_text(SEEING)
    config = tmp_path / "config.yaml"
    config.write_text(f"{SEEN}targets: {{coreml-int4: {{quantize: {{group: 8}}}}}}\n")
    done = crosscast("build", config, "--out", tmp_path / "out", cache=cache)
    assert done.returncode != 0
    assert "set 'minimum: iOS18' in the target" in done.stdout + done.stderr


@pytest.mark.parametrize("via", ["onnx", "exported_program"])
def test_sizes_in_steps_are_enumerated(via: str, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "nets.py").write_text(SEEING)
    config = tmp_path / "config.yaml"
    sizes = "height: [16, 48, 16], width: [32, 64, 32]"
    config.write_text(
        SEEN.replace("32, 32]", "height, width]").replace("[0, 1]}", f"[0, 1], {sizes}}}")
        + f"targets: {{coreml-fp16: {{via: {via}}}}}\n"
    )
    done = crosscast("build", config, "--out", tmp_path / "out", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = tmp_path / "out/seeing/1.0.0/coreml-fp16"
    array = coreml.spec_of(artifact).description.input[0].type.multiArrayType
    shapes = {tuple(each.shape[2:]) for each in array.enumeratedShapes.shapes}
    assert shapes == {(high, wide) for high in (16, 32, 48) for wide in (32, 64)}
    (port,), _ = coreml.interface(artifact)
    assert port.shape == (1, 3, "height", "width")


LOUD = '''
def loud():
    """Squares of hundreds, which fp16 does not hold, between two layers."""
    import torch

    class Loud(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(64, 64), torch.nn.Linear(64, 16)

        def forward(self, x):
            h = self.body(x) * 400
            return self.head(h / (h * h).mean(-1, keepdim=True).sqrt())

    torch.manual_seed(0)
    return Loud()
'''


@pytest.mark.parametrize("on_mismatch", ["keep-float", "fail"])
def test_what_overflows_is_named_and_kept_in_fp32_where_that_is_wanted(
    on_mismatch: str, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "nets.py").write_text(LOUD)
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: loud\nversion: 1.0.0\nsource: {torch: nets.py:loud}\n"
        "inputs: {x: {shape: [batch, 64], dtype: float32, range: [-1, 1]}}\n"
        f"targets: {{coreml-fp16: {{on_mismatch: {on_mismatch}}}}}\n"
    )
    done = crosscast("build", config, "--out", tmp_path / "out", cache=cache)
    if on_mismatch == "fail":
        assert done.returncode == 4
        assert re.search(r"mul '\w+' overflows fp16 \(\d", done.stdout)
        return
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "out/loud/1.0.0/coreml-fp16/manifest.json").read_text())
    (why,) = manifest["precision"]["kept_in_float"]["operators"].values()
    assert re.fullmatch(r"mul '\w+' overflows fp16 \(.*\)", why)
    assert why in manifest["said"]
    assert manifest["precision"]["weights"].keys() == {"float16"}


SEEN_PHOTOS = """
model: resnet8
version: 1.0.0
source: {{tflite: {zoo}/models/resnet8/image_classification.tflite}}
inputs:
  input_1_int8: {{shape: [batch, 32, 32, 3], dtype: int8, range: [-128, 127], batch: [1, 4]}}
samples: {{parity: photos.py:parity}}
targets: {{coreml-int8: {{}}}}
"""
PHOTOS = """
import sys

import numpy as np

sys.path.insert(0, {zoo!r})
import cifar


def parity():
    for sample in cifar.parity():
        (image,) = sample.values()
        yield {{"input_1_int8": np.rint(image * 128).astype(np.int8)}}
"""


def test_an_int8_file_keeps_its_numbers(tmp_path: Path, cache: Path) -> None:
    zoo = str(ROOT / "configs/zoo")
    (tmp_path / "photos.py").write_text(PHOTOS.format(zoo=zoo))
    config = tmp_path / "resnet8.yaml"
    config.write_text(SEEN_PHOTOS.format(zoo=zoo))
    done = crosscast("build", config, "--out", tmp_path / "out", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out").glob("*/*/coreml-int8/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["verdict"]["status"] == "passed"
    weights = manifest["precision"]["weights"]
    # biases, scales and small weights stay in float
    assert weights["int8"] > 5 * sum(size for dtype, size in weights.items() if dtype != "int8")
