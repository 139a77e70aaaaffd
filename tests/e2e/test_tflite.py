"""Real networks through onnx2tf and LiteRT, held against ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxslim
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

from crosscast.pipeline.executors.local import LocalExecutor
from crosscast.pipeline.executors.outcome import Limits, Outcome, Task
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.stages import reference_to
from crosscast.targets import tflite_fp16, tflite_fp32, tflite_int8

pytestmark = pytest.mark.e2e

LIMITS = Limits(timeout=300, memory=4 * 1024**3)
FP32_DB = 80.0
FP16_DB = 45.0
INT8_DB = 20.0
Run = Callable[..., Outcome]


# Networks


def conv(source: int, out: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(source, out, 3, stride, 1, groups=groups), nn.BatchNorm2d(out), nn.ReLU6()
    )


class Net(nn.Module):
    """A function of named layers and the inputs."""

    def __init__(self, function: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self.layers, *inputs)


def maps(out: int) -> Net:
    return Net(
        lambda net, x: net["c"](net["b"](net["a"](x))),
        a=conv(3, 16, stride=2),
        b=conv(16, 16, groups=16),
        c=nn.Conv2d(16, out, 1),
    )


def classifier() -> Net:
    return Net(
        lambda net, x: net["c"](net["a"](x).mean((2, 3))), a=conv(3, 16), c=nn.Linear(16, 10)
    )


def unet() -> Net:
    def run(net: Any, x: Any) -> Any:
        a = net["a"](x)
        b = net["b"](functional.max_pool2d(a, 2))
        c = net["c"](functional.max_pool2d(b, 2))
        d = net["d"](torch.cat([net["up"](c), b], 1))
        wide = functional.interpolate(d, scale_factor=2.0, mode="bilinear", align_corners=False)
        return net["e"](torch.cat([wide, a], 1))

    return Net(
        run,
        a=conv(3, 8),
        b=conv(8, 16),
        c=conv(16, 32),
        up=nn.ConvTranspose2d(32, 16, 2, 2),
        d=conv(32, 16),
        e=nn.Conv2d(24, 1, 1),
    )


def detector() -> Net:
    def run(net: Any, x: Any) -> Any:
        b = net["b"](x)
        c = net["c"](b)
        boxes = net["boxes"](c).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4)
        return torch.sigmoid(net["near"](b)), net["far"](c), boxes, c

    return Net(
        run,
        b=conv(3, 16, stride=2),
        c=conv(16, 16, stride=2),
        near=nn.Conv2d(16, 12, 1),
        far=nn.Conv2d(16, 12, 1),
        boxes=nn.Conv2d(16, 4, 3, padding=1),
    )


def tcn() -> Net:
    return Net(
        lambda net, x: functional.relu(net["c"](functional.relu(net["b"](net["a"](x))))),
        a=nn.Conv1d(8, 16, 3, padding=2, dilation=2),
        b=nn.Conv1d(16, 16, 3, padding=1, groups=4),
        c=nn.Conv1d(16, 16, 3, stride=2, padding=1, groups=16),
    )


def volume() -> Net:
    return Net(
        lambda net, x: net["b"](functional.relu(net["a"](x))),
        a=nn.Conv3d(2, 4, 3, padding=1),
        b=nn.Conv3d(4, 4, 1),
    )


def bilstm() -> Net:
    return Net(
        lambda net, x: net["out"](net["r"](x)[0]),
        r=nn.LSTM(12, 16, 2, bidirectional=True, batch_first=True),
        out=nn.Linear(32, 5),
    )


def gru() -> Net:
    def run(net: Any, x: Any, h: Any) -> Any:
        y, h = net["r"](x, h)
        return net["out"](y), h

    return Net(run, r=nn.GRU(12, 16, batch_first=True), out=nn.Linear(16, 5))


def encoder() -> Net:
    def run(net: Any, ids: Any, mask: Any) -> Any:
        x = net["embed"](ids)
        n, t, d = x.shape
        q, k, v = net["qkv"](x).reshape(n, t, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) / math.sqrt(8)
        scores = scores + ((1 - mask.to(x.dtype)) * -1e4)[:, None, None, :]
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d)
        x = net["norm"](x + net["out"](mixed))
        x = x + net["shrink"](functional.gelu(net["grow"](x)))
        return x, x[:, 0]

    return Net(
        run,
        embed=nn.Embedding(100, 32),
        qkv=nn.Linear(32, 96),
        out=nn.Linear(32, 32),
        norm=nn.LayerNorm(32),
        grow=nn.Linear(32, 64),
        shrink=nn.Linear(64, 32),
    )


def decoder() -> Net:
    """Attention that looks back, with a mask for both ends and learnt places."""

    def run(net: Any, ids: Any, mask: Any) -> Any:
        n, t = ids.shape
        x = net["embed"](ids) + net["places"](torch.arange(t))
        q, k, v = (part.reshape(n, t, 4, 8).transpose(1, 2) for part in net["qkv"](x).split(32, 2))
        seen = (mask[:, None, None, :] * mask[:, None, :, None]).bool()
        seen = seen & torch.ones(t, t).tril().bool()
        scores = (q @ k.transpose(-1, -2)).masked_fill(~seen, -1e9)
        return net["out"]((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, 32))

    return Net(
        run,
        embed=nn.Embedding(100, 32),
        places=nn.Embedding(16, 32),
        qkv=nn.Linear(32, 96),
        out=nn.Linear(32, 7),
    )


def tagger() -> Net:
    """Recurrent layers of any batch and length, one of which is given its state."""

    def run(net: Any, ids: Any, mask: Any) -> Any:
        x, _ = net["lstm"](net["embed"](ids))
        y, h = net["gru"](x, torch.zeros(1, 1, 8) + mask[:, :1].float()[None])
        return net["out"](y), h

    return Net(
        run,
        embed=nn.Embedding(100, 12),
        lstm=nn.LSTM(12, 8, batch_first=True, bidirectional=True),
        gru=nn.GRU(16, 8, batch_first=True),
        out=nn.Linear(8, 5),
    )


def narrowing() -> Net:
    """Windows without padding, windows beyond the edge."""
    pools = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d((3, 2), (3, 2))
    )
    return Net(lambda net, x: net["pools"](x).mean(2).transpose(1, 2), pools=pools)


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.places = nn.Parameter(torch.randn(1, 17, 32))
        self.layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.layer(x)[:, 0])


def spatial_softmax() -> Net:
    return Net(
        lambda net, x: functional.softmax(net["b"](net["a"](x)), 1),
        a=conv(3, 16, stride=2),
        b=nn.Conv2d(16, 5, 1),
    )


def tied() -> Net:
    def run(net: Any, x: Any) -> Any:
        hidden = functional.relu(net["a"](x))
        return functional.linear(hidden, net["a"].weight, net["a"].bias)

    return Net(run, a=nn.Linear(16, 16))


def bounds() -> Net:
    """What divides by a norm or a count, or takes a logarithm, where these may be 0."""

    def run(net: Any, x: Any, mask: Any) -> Any:
        mask = mask.to(x.dtype)[..., None]
        pooled = (net["a"](x) * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        share = mask.mean(1).clamp(1e-7, 1 - 1e-6)
        near = functional.hardtanh(x, -1 + 1e-7, 1 - 1e-7)
        hard = ((1 + near) / (1 - near)).log()
        return functional.normalize(pooled, dim=-1), share.log(), (1 - share).log(), hard

    return Net(run, a=nn.Linear(4, 32))


def ports() -> Net:
    """A scalar, a mask, an input that nothing reads, a scalar output."""
    return Net(lambda _, x, scale, mask, unused: (torch.where(mask, x * scale, x - 1), x.sum()))


def floats(*shape: int | str) -> tuple[str, tuple[int | str, ...]]:
    return "float32", shape


def ids(*shape: int | str) -> tuple[str, tuple[int | str, ...]]:
    return "int64", shape


IMAGE = {"image": floats("batch", 3, 32, 48)}
SQUARE = {"image": floats("batch", 3, 32, 32)}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "maps": (lambda: maps(8), IMAGE),
    "cube": (lambda: maps(16), SQUARE),  # 16 channels of 16 x 16
    "any size": (lambda: maps(8), {"image": floats("batch", 3, "height", "width")}),
    "classifier": (classifier, SQUARE),
    "unet": (unet, IMAGE),
    "detector": (detector, IMAGE),
    "tcn": (tcn, {"x": floats("batch", 8, 40)}),
    "tcn of any length": (tcn, {"x": floats("batch", 8, "time")}),
    "volume": (volume, {"x": floats("batch", 2, 6, 8, 10)}),
    "bilstm": (bilstm, {"x": floats(1, "time", 12)}),
    "bilstm of any batch": (bilstm, {"x": floats("batch", 6, 12)}),
    "gru": (gru, {"x": floats(1, 20, 12), "h": floats(1, 1, 16)}),
    "gru of any batch": (gru, {"x": floats("batch", 6, 12), "h": floats(1, "batch", 16)}),
    "encoder": (encoder, {"ids": ids("batch", 16), "mask": ids("batch", 16)}),
    "encoder of any length": (
        encoder,
        {"ids": ids("batch", "time"), "mask": ids("batch", "time")},
    ),
    "decoder": (decoder, {"ids": ids("batch", "time"), "mask": ids("batch", "time")}),
    "tagger": (tagger, {"ids": ids("batch", "few"), "mask": ids("batch", "few")}),
    "narrowing": (narrowing, {"image": floats("batch", 3, 48, "width")}),
    "vit": (Vit, SQUARE),
    "spatial softmax": (spatial_softmax, SQUARE),
    "tied": (tied, {"x": floats("batch", 16)}),
    "ports": (
        ports,
        {
            "x": floats("batch", 5, 6),
            "scale": floats(),
            "mask": ("bool", ("batch", 5, 6)),
            "unused": floats("batch", 3),
        },
    ),
}
OPSETS = {"spatial softmax": 11}
SIZES = (
    {"batch": 1, "time": 16, "few": 5, "height": 32, "width": 48},
    {"batch": 3, "time": 9, "few": 4, "height": 48, "width": 17},
)
BOUNDS = {
    "decoder": {"batch": (1, 4), "time": (1, 16)},
    "tagger": {"batch": (1, 4), "few": (1, 5)},
}
"""Declared ones, for what takes several conversions."""


# Tools


def draw(inputs: dict[str, Any], sizes: dict[str, int], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (dtype, dims) in inputs.items():
        shape = [sizes.get(dim, dim) for dim in dims]
        if dtype == "float32":
            arrays[name] = np.asarray(rng.standard_normal(shape), np.float32)
        else:
            high = 100 if name == "ids" else 2
            arrays[name] = np.asarray(rng.integers(0, high, shape), dtype)
    return arrays


def export(name: str, tree: Path) -> None:
    """`model.onnx`, exported from torch and simplified, with random weights."""
    build, inputs = NETWORKS[name]
    torch.manual_seed(0)
    net = build().eval()
    example = draw(inputs, {**SIZES[0], "batch": 2}, 0)
    dynamic = {
        key: {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, str)}
        for key, (_, dims) in inputs.items()
    }
    tensors = tuple(torch.from_numpy(array) for array in example.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)
        given = net(*tensors)
        count = len(given) if isinstance(given, tuple) else 1
        torch.onnx.export(
            net,
            tensors,
            tree / "raw.onnx",
            dynamo=False,
            opset_version=OPSETS.get(name, 17),
            input_names=list(inputs),
            output_names=[f"out{index}" for index in range(count)],
            dynamic_axes={key: axes for key, axes in dynamic.items() if axes},
        )
    onnx.save(onnxslim.slim(onnx.load(tree / "raw.onnx")), tree / "model.onnx")
    (tree / "raw.onnx").unlink()
    if name in BOUNDS:
        ports = tuple(Tensor(name=k, shape=dims, dtype=d) for k, (d, dims) in inputs.items())
        declared = Signature(inputs=ports, dims=BOUNDS[name]).to_json()
        (tree / "signature.json").write_text(json.dumps(declared))


def decibels(wanted: Any, found: Any) -> float:
    error = np.square(wanted.astype(np.float64) - found).sum()
    power = np.square(wanted.astype(np.float64)).sum()
    return math.inf if error == 0 else 10 * math.log10(power / error)


def compare(tree: Path, artifact: Path, inputs: dict[str, Any], least: float) -> None:
    """The artifact declares and computes what the ONNX model does."""
    session = onnxruntime.InferenceSession(tree / "model.onnx")
    found = tflite_fp32.open(artifact=artifact)
    for mine, theirs in (
        (found.inputs, session.get_inputs()),
        (found.outputs, session.get_outputs()),
    ):
        assert [tensor.name for tensor in mine] == [value.name for value in theirs]
        for tensor, value in zip(mine, theirs, strict=True):
            fixed = tuple(
                dim if isinstance(dim, int) else f"dim{axis}"
                for axis, dim in enumerate(value.shape)
            )
            assert tensor.shape == fixed
    for seed, sizes in enumerate(SIZES):
        arrays = draw(inputs, sizes, 10 + seed)
        read = {value.name for value in session.get_inputs()}
        wanted = session.run(None, {key: arrays[key] for key in arrays if key in read})
        got = found.run(arrays)
        for value, name in zip(wanted, got, strict=True):
            assert (got[name].shape, got[name].dtype) == (value.shape, value.dtype)
            assert decibels(value, got[name]) >= least, (name, sizes)


def samples(tree: Path, inputs: dict[str, Any]) -> Path:
    tree.mkdir()
    cases = []
    for index in range(8):
        file = f"{index:04}.safetensors"
        save_file(draw(inputs, {**SIZES[0], "batch": 1 + index % 2}, 100 + index), tree / file)
        cases.append({"name": str(index), "origin": "real", "file": file, "dims": {}})
    (tree / "cases.json").write_text(json.dumps(cases))
    return tree


def digest(tree: Path) -> str:
    return hashlib.sha256((tree / "model.tflite").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def executor(overlays: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(cache=overlays.parent) as running:
        yield running


@pytest.fixture
def run(executor: LocalExecutor, tmp_path: Path) -> Run:
    """Run one stage of a target in an isolated worker."""

    def outcome(stage: str, target: Any, inputs: dict[str, Path], out: Path) -> Outcome:
        quantizes = stage == "quantize"
        kind = target.QuantizeOptions if quantizes else target.Options
        options = {
            "function": reference_to(target.quantize if quantizes else target.convert),
            "options": kind().model_dump(mode="json"),
        }
        task = Task(
            id=f"{stage} {out.name}",
            module=f"crosscast.pipeline.stages.{stage}",
            toolchain=target.quantizer if quantizes else target.toolchain["onnx"],
            inputs=inputs,
            options=options,
            out=out,
            log=tmp_path / f"{out.name}.log",
            limits=LIMITS,
        )
        executor.submit(task)
        done = None
        while done is None:
            done = executor.wait(300)
        return done

    return outcome


def convert(run: Run, tree: Path, out: Path) -> Path:
    outcome = run("convert", tflite_fp32, {"model": tree}, out)
    assert outcome.status == "ok", outcome.message
    return out


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "onnx"
    path.mkdir()
    return path


# Tests


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_what_onnx_computes(run: Run, tree: Path, tmp_path: Path, name: str) -> None:
    export(name, tree)
    artifact = convert(run, tree, tmp_path / "a")
    compare(tree, artifact, NETWORKS[name][1], FP32_DB)
    assert [path.name for path in artifact.iterdir()] == ["model.tflite"]
    assert tflite_fp32.precision(artifact=artifact).delivered == "fp32"


@pytest.mark.parametrize("name", ["unet", "bilstm", "gru", "encoder", "vit"])
def test_float16(run: Run, tree: Path, tmp_path: Path, name: str) -> None:
    export(name, tree)
    whole = convert(run, tree, tmp_path / "a")
    outcome = run("quantize", tflite_fp16, {"model": whole}, tmp_path / "half")
    assert outcome.status == "ok", outcome.message
    compare(tree, tmp_path / "half", NETWORKS[name][1], FP16_DB)
    assert tflite_fp16.precision(artifact=tmp_path / "half").delivered == "fp16"


@pytest.mark.parametrize("name", ["classifier", "unet", "detector", "tcn", "encoder", "vit"])
def test_int8(run: Run, tree: Path, tmp_path: Path, name: str) -> None:
    export(name, tree)
    inputs = NETWORKS[name][1]
    whole = convert(run, tree, tmp_path / "a")
    given = {"model": whole, "samples": samples(tmp_path / "samples", inputs)}
    for out in (tmp_path / "one", tmp_path / "other"):
        outcome = run("quantize", tflite_int8, given, out)
        assert outcome.status == "ok", outcome.message
    compare(tree, tmp_path / "one", inputs, INT8_DB)
    assert tflite_int8.precision(artifact=tmp_path / "one").delivered == "int8"
    assert digest(tmp_path / "one") == digest(tmp_path / "other")


def test_the_same_bytes_twice(run: Run, tree: Path, tmp_path: Path) -> None:
    export("detector", tree)
    before = (tree / "model.onnx").read_bytes()
    one, other = (convert(run, tree, tmp_path / name) for name in ("one", "other"))
    assert digest(one) == digest(other)
    assert (tree / "model.onnx").read_bytes() == before


def test_every_run_starts_from_a_fresh_state(run: Run, tree: Path, tmp_path: Path) -> None:
    export("bilstm", tree)
    session = tflite_fp32.open(artifact=convert(run, tree, tmp_path / "a"))
    arrays = draw(NETWORKS["bilstm"][1], SIZES[0], 0)
    one, other = session.run(arrays), session.run(arrays)
    np.testing.assert_array_equal(one["out0"], other["out0"])


def test_weights_beside_the_model(run: Run, tree: Path, tmp_path: Path) -> None:
    export("classifier", tree)
    onnx.save(
        onnx.load(tree / "model.onnx"),
        tree / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    compare(tree, convert(run, tree, tmp_path / "a"), SQUARE, FP32_DB)


def test_torch_dynamo_exports(run: Run, tree: Path, tmp_path: Path) -> None:
    net = Vit().eval()
    example = torch.from_numpy(draw(SQUARE, {"batch": 2}, 0)["image"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)
        program = torch.onnx.export(
            net,
            (example,),
            dynamo=True,
            opset_version=18,
            input_names=["image"],
            output_names=["out0"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},),
            verbose=False,
        )
    onnx.save(onnxslim.slim(program.model_proto), tree / "model.onnx")
    compare(tree, convert(run, tree, tmp_path / "a"), SQUARE, FP32_DB)


@pytest.mark.parametrize("dynamo", [False, True])
def test_bounds_nearly_0_or_1_hold(run: Run, tree: Path, tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(0)
    net = bounds().eval()
    mask = np.ones((3, 8), np.int64)
    mask[0], mask[1, 3:] = 0, 0
    arrays = {"x": draw({"x": floats(3, 8, 4)}, {}, 0)["x"], "mask": mask}
    tensors = tuple(torch.from_numpy(array) for array in arrays.values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = net(*tensors)
        names = [f"out{index}" for index in range(len(wanted))]
        torch.onnx.export(
            net,
            tensors,
            tree / "model.onnx",
            dynamo=dynamo,
            opset_version=18,
            input_names=list(arrays),
            output_names=names,
            **({"verbose": False} if dynamo else {}),
        )
    whole = convert(run, tree, tmp_path / "a")
    outcome = run("quantize", tflite_fp16, {"model": whole}, tmp_path / "half")
    assert outcome.status == "ok", outcome.message
    for artifact, least in ((whole, FP32_DB), (tmp_path / "half", FP16_DB)):
        found = tflite_fp32.open(artifact=artifact).run(arrays)
        for name, value in zip(names, wanted, strict=True):
            assert np.isfinite(found[name]).all(), name
            assert decibels(value.numpy(), found[name]) >= least, name


@pytest.mark.parametrize("kind", ["Unique", "STFT", "Acme"])
def test_an_operator_that_tflite_lacks_is_named(
    run: Run, tree: Path, tmp_path: Path, kind: str
) -> None:
    helper = onnx.helper
    extra = {"STFT": ["step", "window"]}.get(kind, [])
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"], name="/first/Relu"),
            helper.make_node(
                kind,
                ["r", *extra],
                ["y"],
                name="/layers.3/op",
                domain="com.acme" if kind == "Acme" else "",
            ),
        ],
        "net",
        [helper.make_tensor_value_info("x", 1, [1, 400, 1])],
        [helper.make_tensor_value_info("y", 1, None)],
        [
            onnx.numpy_helper.from_array(np.array(160), "step"),
            onnx.numpy_helper.from_array(np.hanning(16).astype(np.float32), "window"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tree / "model.onnx")
    outcome = run("convert", tflite_fp32, {"model": tree}, tmp_path / "a")
    assert outcome.status == "error"
    assert f"operator {kind} (layer /layers.3/op) has no TFLite equivalent" in outcome.message


def test_a_dynamic_length_of_a_gru_is_refused(
    run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"x": floats(1, "time", 12), "h": floats(1, 1, 16)}
    monkeypatch.setitem(NETWORKS, "gru", (gru, inputs))
    export("gru", tree)
    outcome = run("convert", tflite_fp32, {"model": tree}, tmp_path / "a")
    assert outcome.status == "error"
    assert "operator GRU (layer " in outcome.message
    assert "dynamic sequence length" in outcome.message


def test_the_usage_note_runs(run: Run, tree: Path, tmp_path: Path) -> None:
    export("encoder", tree)
    artifact = convert(run, tree, tmp_path / "a")
    arrays = draw(NETWORKS["encoder"][1], SIZES[1], 0)
    session = tflite_fp32.open(artifact=artifact)
    vectors = {f"0/in/{name}": array for name, array in arrays.items()}
    vectors |= {f"0/out/{name}": array for name, array in session.run(arrays).items()}
    save_file(vectors, artifact / "vectors.safetensors")
    manifest = {
        "model": "encoder",
        "version": "1.0.0",
        "target": "tflite-fp32",
        "files": [{"path": "model.tflite"}],
        "inputs": [vars(tensor) for tensor in session.inputs],
        "outputs": [vars(tensor) for tensor in session.outputs],
    }
    note = tflite_fp32.usage(manifest=manifest)
    code = note.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=artifact, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("out0 (3, 16, 32) largest difference:")
    assert float(lines[0].split()[-1]) < 1e-4
