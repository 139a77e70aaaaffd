"""The ONNX family's smaller precisions and .ort, from a transformer-like net to the command."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import crosscast

pytestmark = pytest.mark.e2e
onnx = pytest.importorskip("onnx")

NET = '''
import torch
from torch import nn


class Block(nn.Module):
    """Attention and a feed-forward net, as in any transformer, with an embedding before them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(200, 64)
        self.norm = nn.LayerNorm(64)
        self.attend = nn.MultiheadAttention(64, 4, batch_first=True)
        self.wide, self.narrow = nn.Linear(64, 256), nn.Linear(256, 64)
        self.head = nn.Linear(64, 32)

    def forward(self, ids):
        x = self.embed(ids)
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return self.head(x + self.narrow(nn.functional.gelu(self.wide(x))))


def build():
    torch.manual_seed(0)
    return Block()


def samples():
    import numpy as np

    random = np.random.default_rng(1)
    for _ in range(6):
        yield {"ids": random.integers(0, 200, (1, 12))}


def calibration():
    import numpy as np

    random = np.random.default_rng(2)
    for _ in range(8):
        yield {"ids": random.integers(0, 200, (1, 12))}
'''
CONFIG = """
model: block
version: 1.0.0
source: {torch: net.py:build}
inputs:
  ids: {shape: [batch, length], dtype: int64, range: [0, 199], batch: [1, 3], length: [4, 16]}
samples: {parity: net.py:samples, calibration: net.py:calibration}
targets:
  onnx: {ir_version: 10}
  onnx-fp16: {io: float16}
  onnx-int8: {from: onnx}
  onnx-int8-dynamic: {from: onnx}
  onnx-int4: {from: onnx}
  ort: {from: onnx-int8}
"""
PRECISIONS = {
    "onnx": ("fp32", 100.0),
    "onnx-fp16": ("fp16", 50.0),
    "onnx-int8": ("int8", 25.0),
    "onnx-int8-dynamic": ("int8", 25.0),
    "onnx-int4": ("int4", 12.0),
    "ort": ("int8", 25.0),
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The artifacts of the net above."""
    place = tmp_path_factory.mktemp("block")
    (place / "net.py").write_text(NET)
    (place / "model.yaml").write_text(CONFIG)
    done = crosscast("build", place / "model.yaml", "--out", place / "out", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "out" / "block" / "1.0.0"


@pytest.mark.parametrize("target", PRECISIONS)
def test_each_precision_is_delivered_and_passes(blocks: Path, target: str) -> None:
    manifest = json.loads((blocks / target / "manifest.json").read_text())
    precision, least = PRECISIONS[target]
    assert manifest["verdict"]["status"] == "passed"
    assert manifest["precision"]["delivered"] == manifest["precision"]["asked"] == precision
    (worst,) = manifest["verdict"]["worst"].values()
    assert worst["numbers"]["snr_db"] > least


def test_what_was_asked_for_is_in_the_files(blocks: Path) -> None:
    assert onnx.load(blocks / "onnx" / "model.onnx").ir_version == 10
    half = onnx.load(blocks / "onnx-fp16" / "model.onnx")
    assert half.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert "float16" in (blocks / "onnx-fp16" / "USAGE.md").read_text()
    assert 'InferenceSession("model.ort"' in (blocks / "ort" / "USAGE.md").read_text()


def swapped_nibbles(folder: Path, source: Path) -> None:
    model = onnx.load(source / "model.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            tensor = tensors[node.input[1]]
            levels = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(levels >> 4 | levels << 4, tensor.name))
    onnx.save(model, folder / "model.onnx")


def permuted_rows(folder: Path, source: Path) -> None:
    model = onnx.load(source / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2:
            rows = onnx.numpy_helper.to_array(tensor)[::-1].copy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(rows, tensor.name))
    onnx.save(model, folder / "model.onnx")


def cut_short(folder: Path, source: Path) -> None:
    content = (source / "model.ort").read_bytes()
    (folder / "model.ort").write_bytes(content[: len(content) // 2])


def float_instead(folder: Path, source: Path) -> None:
    from crosscast.targets import ort

    ort.convert(model=source.parent / "onnx", options={}, out=folder)


@pytest.mark.parametrize(
    ("target", "corrupt", "reason"),
    [
        ("onnx-int4", swapped_nibbles, "snr_db is"),
        ("onnx-int8-dynamic", permuted_rows, "snr_db is"),
        ("ort", cut_short, "does not load"),
        ("ort", float_instead, "int8 was asked for, fp32 was delivered"),
    ],
)
def test_a_corrupted_artifact_fails(
    blocks: Path, target: str, corrupt: Any, reason: str, tmp_path: Path
) -> None:
    from verdicts import judged

    corrupt(tmp_path, blocks / target)
    asked, _ = PRECISIONS[target]
    found = judged(blocks / target, tmp_path, precision_asked=asked)
    assert found.status == "failed"
    assert reason in found.reason


CONVERT = """
import sys
from pathlib import Path

from crosscast.targets import ort

for index, model in enumerate(sys.argv[2:]):
    out = Path(sys.argv[1]) / str(index)
    out.mkdir(parents=True)
    ort.convert(model=Path(model), options={}, out=out)
"""


@pytest.fixture
def convolutions(tmp_path: Path) -> Path:
    """An ONNX tree: a net of convolutions with a branch, and both of its ways."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        net (float[n,3,8,8] x, bool late, float[4,3,3,3] k) => (float[n,4,1,1] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, k)
            r = Relu (c)
            y = If (late) <
                then_branch = mean () => (float[n,4,1,1] m) { m = GlobalAveragePool (r) },
                else_branch = most () => (float[n,4,1,1] h) {
                    s = HardSwish (r)
                    h = GlobalMaxPool (s)
                }>
        }"""
    )
    kernels = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernels, "k"))
    del model.graph.input[2]
    tree = tmp_path / "convolutions"
    tree.mkdir()
    onnx.save(model, tree / "model.onnx")
    return tree


def test_equal_models_give_equal_ort_files(
    blocks: Path, convolutions: Path, tmp_path: Path
) -> None:
    """ONNX Runtime's own order is another one in every process."""
    trees = [convolutions, blocks / "onnx", blocks / "onnx-int8"]
    found: list[set[bytes]] = [set() for _ in trees]
    for seed in range(4):
        out = tmp_path / str(seed)
        words = [sys.executable, "-c", CONVERT, out, *trees]
        subprocess.run(words, env={**os.environ, "PYTHONHASHSEED": str(seed)}, check=True)
        for index, files in enumerate(found):
            files.add((out / str(index) / "model.ort").read_bytes())
    assert [len(files) for files in found] == [1, 1, 1]


def type_strings(content: bytes) -> dict[bytes, Any]:
    """What an .ort file says of its operators' type strings."""
    from crosscast.targets.families import onnx_ort_file

    resolver = onnx_ort_file.read(content).KernelTypeStrResolver()
    found = {}
    for index in range(resolver.OpKernelTypeStrArgsLength()):
        operator = resolver.OpKernelTypeStrArgs(index)
        entries = [
            operator.KernelTypeStrArgs(place) for place in range(operator.KernelTypeStrArgsLength())
        ]
        found[operator.OpId()] = {
            entry.KernelTypeStr(): [
                (entry.Args(place).ArgType(), entry.Args(place).Index())
                for place in range(entry.ArgsLength())
            ]
            for entry in entries
        }
    return found


def test_an_ort_file_says_what_onnx_runtime_wrote(
    convolutions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosscast.targets import ort
    from crosscast.targets.families import onnx_ort_file

    (tmp_path / "given").mkdir()
    ort.convert(model=convolutions, options={}, out=tmp_path / "given")
    monkeypatch.setattr(onnx_ort_file, "canonical", bytes)
    (tmp_path / "raw").mkdir()
    ort.convert(model=convolutions, options={}, out=tmp_path / "raw")
    raw, given = ((tmp_path / name / "model.ort").read_bytes() for name in ("raw", "given"))
    assert type_strings(raw) == type_strings(given)
    assert b":If:16" in type_strings(given)
    model = onnx_ort_file.read(raw).Model()._tab.Pos
    assert given.endswith(raw[model:])
    images = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    for late in (False, True):
        inputs = {"x": images, "late": np.array(late)}
        wanted = ort.open(artifact=tmp_path / "raw").run(inputs)["y"]
        np.testing.assert_array_equal(
            ort.open(artifact=tmp_path / "given").run(inputs)["y"], wanted
        )


def test_an_ort_file_of_a_newer_format_is_not_rewritten(blocks: Path) -> None:
    from crosscast.pipeline.errors import StageError
    from crosscast.targets.families import onnx_ort_file

    content = bytearray((blocks / "ort" / "model.ort").read_bytes())
    root = onnx_ort_file.read(bytes(content))._tab.Pos
    layout = root - struct.unpack_from("<i", content, root)[0]
    struct.pack_into("<H", content, layout, 14)  # one field more
    with pytest.raises(StageError, match="InferenceSession has 5 fields, 4 are known"):
        onnx_ort_file.canonical(bytes(content))


MEMORY = """
import resource, sys
from pathlib import Path

import numpy as np
import onnx
from crosscast.pipeline.parity.samples import Case, write_cases
from crosscast.targets.families import onnx_calibrate

count, method, place = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
random = np.random.default_rng(0)
write_cases(
    (
        Case(name=str(i), origin="real", arrays={"x": random.random((1, 64, 64, 64), np.float32)})
        for i in range(count)
    ),
    out=place,
)
info = onnx.helper.make_tensor_value_info
names = ["x", *(f"t{index}" for index in range(8))]
nodes = [
    onnx.helper.make_node("Relu", [one], [other]) for one, other in zip(names, names[1:])
]
graph = onnx.helper.make_graph(
    nodes, "g", [info("x", 1, [1, 64, 64, 64])], [info("t7", 1, [1, 64, 64, 64])]
)
opset = [onnx.helper.make_opsetid("", 18)]
model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
read = onnx_calibrate.sample_reader(samples=place, names={"x"})
onnx_calibrate.measured(model, names, samples=read, method=method)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_calibration_does_not_grow_with_its_samples(tmp_path: Path, method: str) -> None:
    """A sample's activations are 9 MiB here: kept, 80 more samples would take 720 MiB."""
    peaks = []
    for count in (8, 88):
        words = [sys.executable, "-c", MEMORY, str(count), method, str(tmp_path / str(count))]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 32


def test_int8_of_a_recurrent_net_and_of_a_convolution(tmp_path: Path) -> None:
    """Weights alone are int8 where ONNX Runtime computes in float."""
    from crosscast.targets import onnx_int8_dynamic

    random = np.random.default_rng(0)
    weights = {
        "k": random.normal(size=(8, 4, 3)).astype(np.float32),
        "w": random.normal(size=(1, 48, 8)).astype(np.float32) / 4,
        "r": random.normal(size=(1, 48, 16)).astype(np.float32) / 4,
    }
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Conv", ["x", "k"], ["c"], pads=[1, 1]),
        make("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        make("GRU", ["t", "w", "r"], ["y"], hidden_size=16),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", 1, ["n", 4, "t"])],
        [info("y", 1, ["t", 1, "n", 16])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    out = tmp_path / "out"
    out.mkdir()
    onnx.save(model, tmp_path / "model.onnx")
    onnx_int8_dynamic.quantize(model=tmp_path, options={}, samples=None, out=out)
    assert onnx_int8_dynamic.precision(artifact=out).delivered == "int8"
    x = {"x": random.normal(size=(2, 4, 9)).astype(np.float32)}
    wanted = onnx_int8_dynamic.open(artifact=tmp_path).run(x)["y"]
    given = onnx_int8_dynamic.open(artifact=out).run(x)["y"]
    assert 20 * np.log10(np.linalg.norm(wanted) / np.linalg.norm(given - wanted)) > 30
