"""ONNX, fp16 and int8 from real networks, against PyTorch itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Tensor
from crosscast.pipeline.stages import simplify
from crosscast.targets import onnx as target
from crosscast.targets import onnx_fp16, onnx_int8
from crosscast.targets.families.onnx_calibrate import sample_reader

pytestmark = [
    pytest.mark.e2e,
    # torch's exporters warn of their own use of torch and of numpy.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::torch.jit.TracerWarning"),
]
torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
nn = torch.nn


class Cnn(nn.Module):  # type: ignore[misc,name-defined]
    """Convolutions, batch norms and a clipped activation, as in small vision nets."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 1),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x).flatten(1))


class Tied(nn.Module):  # type: ignore[misc,name-defined]
    """A token mixer that reads one weight by rows (a Gemm) and by columns (a MatMul)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(24, 24)
        with torch.no_grad():  # channels of different sizes, as trained weights have
            self.first.weight *= torch.logspace(-1, 1, 24)[:, None]
        self.norm = nn.LayerNorm(24)

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.gelu(self.norm(self.first(x))) @ self.first.weight


class Recurrent(nn.Module):  # type: ignore[misc,name-defined]
    """An LSTM with a head on its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(x)[0][:, -1])


NETS = {"cnn": (Cnn, (3, 32, 32)), "tied": (Tied, (24,)), "lstm": (Recurrent, (5, 8))}


def share_equal_weights(path: Path) -> None:
    """Store tied weights once, as the exporter for programs does and this one does not."""
    model = onnx.load(path)
    first: dict[bytes, str] = {}
    names = {t.name: first.setdefault(t.raw_data, t.name) for t in model.graph.initializer}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    for tensor in list(model.graph.initializer):
        if names[tensor.name] != tensor.name:
            model.graph.initializer.remove(tensor)
    onnx.save(model, path)


class Net:
    """A network, its inputs and what it gives for them, and the trees made of it."""

    def __init__(self, name: str, root: Path) -> None:
        torch.manual_seed(0)
        build, shape = NETS[name]
        self.module = build().eval()
        self.root = root
        self.x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        self.wanted: NDArray[Any] = self.module(self.x).detach().numpy()
        self.exported = self._exported()

    def _exported(self) -> Path:
        tree = self.place("exported")
        torch.onnx.export(
            self.module,
            (self.x[:2],),
            tree / "model.onnx",
            dynamo=False,
            opset_version=18,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )
        share_equal_weights(tree / "model.onnx")
        simplified = self.place("simplified")
        simplify.run(inputs={"model": tree}, options={}, out=simplified)
        return simplified

    def place(self, name: str) -> Path:
        path = self.root / name
        path.mkdir()
        return path

    def samples(self) -> Path:
        from safetensors.numpy import save_file

        tree = self.place("samples")
        names = [f"{index:04}.safetensors" for index in range(len(self.x))]
        for index, name in enumerate(names):
            save_file({"x": self.x[index : index + 1].numpy()}, tree / name)
        cases = [{"name": name, "origin": "real", "file": name, "dims": {}} for name in names]
        (tree / "cases.json").write_text(json.dumps(cases))
        return tree

    def snr(self, made_by: Any, artifact: Path) -> float:
        """How far the artifact's answers are from the network's, in dB."""
        session = made_by.open(artifact=artifact)
        shape = ("batch", *self.x.shape[1:])
        assert session.inputs == (Tensor(name="x", shape=shape, dtype="float32"),)
        given = session.run({"x": self.x.numpy()})["y"]
        error = float(((given.astype(float) - self.wanted) ** 2).sum())
        return float(10 * np.log10((self.wanted.astype(float) ** 2).sum() / max(error, 1e-30)))


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Net:
    return Net(request.param, tmp_path)


def converted(net: Net, made_by: Any, name: str) -> Path:
    out = net.place(name)
    if made_by is onnx_fp16:
        made_by.quantize(model=net.exported, options={}, samples=None, out=out)
    else:
        made_by.convert(model=net.exported, options={}, out=out)
    return out


def test_fp32_is_the_network(net: Net) -> None:
    out = converted(net, target, "fp32")
    assert net.snr(target, out) > 100
    assert target.precision(artifact=out).delivered == "fp32"


def test_fp16_is_the_network_in_half_the_bytes(net: Net) -> None:
    out = converted(net, onnx_fp16, "fp16")
    assert net.snr(onnx_fp16, out) > 50
    audit = onnx_fp16.precision(artifact=out)
    assert audit.delivered == "fp16"
    assert (out / "model.onnx").read_bytes() == (
        converted(net, onnx_fp16, "again") / "model.onnx"
    ).read_bytes()


def test_int8_is_near_the_network(net: Net) -> None:
    """Shared weights included, of which the quantizer alone makes noise."""
    model, samples = converted(net, onnx_int8, "fp32"), net.samples()
    outs = [net.place("int8"), net.place("again")]
    for out in outs:
        onnx_int8.quantize(model=model, options={}, samples=samples, out=out)
    assert net.snr(onnx_int8, outs[0]) > 22
    assert onnx_int8.precision(artifact=outs[0]).delivered == "int8"
    first, second = ((out / "model.onnx").read_bytes() for out in outs)
    assert first == second
    assert [path.name for path in outs[0].iterdir()] == ["model.onnx"]


class Reader:
    """Calibration samples as the quantizer asks for them."""

    def __init__(self, samples: Path) -> None:
        self._samples = sample_reader(samples=samples, names={"x"})()

    def get_next(self) -> Any:
        return next(self._samples, None)


def test_the_quantizer_alone_corrupts_shared_weights(tmp_path: Path) -> None:
    """Why weights are split by their readers; once this fails, that can go."""
    from onnxruntime import quantization as ort

    net = Net("tied", tmp_path)
    model = onnx.load(converted(net, onnx_int8, "fp32") / "model.onnx")
    weights = [node.input[1] for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    assert len(weights) == 2
    assert len(set(weights)) == 1
    out = net.place("raw")
    ort.quantize_static(
        model,
        out / "model.onnx",
        Reader(net.samples()),
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
    )
    assert net.snr(onnx_int8, out) < 10


@pytest.mark.parametrize(
    "options",
    [
        {"per_channel": False},
        {"activation": "int8"},
        {"method": "entropy"},
        {"method": "percentile"},
        {"reduce_range": True},
        {"exclude": ("Gemm",)},
    ],
)
def test_int8_options(tmp_path: Path, options: dict[str, Any]) -> None:
    net = Net("cnn", tmp_path)
    model, out = converted(net, onnx_int8, "fp32"), net.place("int8")
    onnx_int8.quantize(model=model, options=options, samples=net.samples(), out=out)
    assert net.snr(onnx_int8, out) > 15


def test_weights_beyond_fp16_are_clamped_and_named(tmp_path: Path) -> None:
    net = Net("tied", tmp_path)
    model = onnx.load(net.exported / "model.onnx")
    bias = next(t for t in model.graph.initializer if "bias" in t.name)
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = -3e38
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, net.exported / "model.onnx")
    out = net.place("fp16")
    options = {"compute": "float16", "on_mismatch": "fail"}
    onnx_fp16.quantize(model=net.exported, options=options, samples=None, out=out)
    assert json.loads((out / "notes.json").read_text()) == {"fp16_clamped": [bias.name]}
    kept = next(t for t in onnx.load(out / "model.onnx").graph.initializer if t.name == bias.name)
    assert onnx.numpy_helper.to_array(kept)[0] == -65504


def test_fp16_of_a_tensor_that_two_fp32_operators_read(tmp_path: Path) -> None:
    """CumSum and TopK stay in fp32 and read one tensor: the converter writes two casts of it."""

    class Both(nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: Any) -> Any:
            h = x * 2 + 1
            return torch.cumsum(h, 1) + torch.topk(h, 24, dim=1)[0]

    NETS["both"] = (Both, (24,))
    try:
        net = Net("both", tmp_path)
    finally:
        del NETS["both"]
    assert net.snr(onnx_fp16, converted(net, onnx_fp16, "fp16")) > 50


def test_a_norm_of_a_plain_image_is_as_exact_as_pytorchs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.SiLU()
    net = Net.__new__(Net)
    net.module, net.root = nn.Sequential(*layers).eval(), tmp_path
    net.x = torch.ones(2, 3, 192, 192)
    net.wanted = net.module(net.x).detach().numpy()
    net.exported = net._exported()
    assert net.snr(target, converted(net, target, "plain")) < 90
    (net.exported / "notes.json").write_text(json.dumps({"exporter": "torch.onnx"}))
    assert net.snr(target, converted(net, target, "staged")) > 100


def test_samples_that_do_not_fit_are_a_stage_error(tmp_path: Path) -> None:
    net = Net("cnn", tmp_path)
    model, out = converted(net, onnx_int8, "fp32"), net.place("int8")
    net.x = net.x[:, :, :, 0]
    with pytest.raises(StageError, match=r"onnx-int8: the model refuses a calibration .* rank"):
        onnx_int8.quantize(model=model, options={}, samples=net.samples(), out=out)


@pytest.mark.parametrize("made_by", [target, onnx_fp16])
def test_usage_runs(tmp_path: Path, made_by: Any) -> None:
    from safetensors.numpy import save_file

    net = Net("cnn", tmp_path)
    out = converted(net, made_by, "artifact")
    save_file({"0/in/x": net.x.numpy(), "0/out/y": net.wanted}, out / "vectors.safetensors")
    manifest = {
        "model": "net",
        "version": "1",
        "target": "it",
        "files": [{"path": "model.onnx"}],
        "inputs": [{"name": "x", "shape": ["batch", 3, 32, 32], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": ["batch", 10], "dtype": "float32"}],
    }
    code = re.search(r"```python\n(.*?)```", made_by.usage(manifest=manifest), re.DOTALL)
    assert code
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code[1]],
        cwd=out,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.startswith("y (8, 10) largest difference: ")
    assert float(printed.split()[-1]) < 0.01
