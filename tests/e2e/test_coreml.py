"""Core ML packages from real networks: what the saved files hold, for nothing can run them here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.targets import coreml_fp16 as target
from crosscast.targets.base import remark
from crosscast.targets.families import coreml, coreml_audit

pytestmark = [
    pytest.mark.e2e,
    # torch warns of its own deprecated use of itself when it loads and decomposes programs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::torch.jit.TracerWarning"),
    # coremltools computes constants that hold infinities.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
torch = pytest.importorskip("torch")
coremltools = pytest.importorskip("coremltools")
nn = torch.nn
functional = torch.nn.functional


class Cnn(nn.Module):  # type: ignore[misc,name-defined]
    """Convolutions, batch norms, a pool whose stride export leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 1),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x).flatten(1))


class Masked(nn.Module):  # type: ignore[misc,name-defined]
    """Attention under a causal mask of -inf above the diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, x: Any) -> Any:
        h = self.project(x)
        mask = torch.triu(torch.full((6, 6), float("-inf")), 1)
        return torch.softmax(h @ h.transpose(1, 2) + mask, -1) @ h


class Recurrent(nn.Module):  # type: ignore[misc,name-defined]
    """An LSTM with a head on its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(x)[0][:, -1])


class TwoOffsets(nn.Module):  # type: ignore[misc,name-defined]
    """Two convolutions that are each reduced by an equal constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1, bias=False)
        self.second = nn.Conv2d(8, 8, 1, bias=False)
        self.register_buffer("a", torch.arange(1.0, 9.0).reshape(1, 8, 1, 1))
        self.register_buffer("b", torch.arange(1.0, 9.0).reshape(1, 8, 1, 1))

    def forward(self, x: Any) -> Any:
        return self.second((self.first(x) - self.a).relu()) - self.b


class Embedding(nn.Module):  # type: ignore[misc,name-defined]
    """Tokens in, vectors and their best place out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)

    def forward(self, tokens: Any) -> Any:
        h = self.table(tokens)
        return h.mean(1), h.sum(1).argmax(-1)


class Unsupported(nn.Module):  # type: ignore[misc,name-defined]
    """An operator that Core ML does not have, in a layer of its own."""

    class Inner(nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: Any) -> Any:
            return torch.special.i0(x)

    def __init__(self) -> None:
        super().__init__()
        self.bessel = self.Inner()

    def forward(self, x: Any) -> Any:
        return self.bessel(x)


class RankSix(nn.Module):  # type: ignore[misc,name-defined]
    """More dimensions than Core ML has."""

    def forward(self, x: Any) -> Any:
        h = x.reshape(-1, 2, 2, 2, 2, 2).permute(0, 5, 1, 2, 4, 3)
        return (h * 2).relu().sum((1, 2))


def exported(
    root: Path,
    module: Any,
    shape: tuple[int, ...],
    *,
    dynamic: bool = True,
    declared: dict[str, tuple[int, int]] | None = None,
    outputs: tuple[str, ...] = ("y",),
    dtype: str = "float32",
) -> Path:
    """The tree that an export step would write: input "given", dynamic over its batch."""
    torch.manual_seed(0)
    tree = root / "program"
    tree.mkdir()
    example = torch.rand(2, *shape) if dtype == "float32" else torch.zeros(2, *shape).long()
    dims = ({0: torch.export.Dim("batch", min=1, max=4)},) if dynamic else None
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=dims)
    torch.export.save(program, tree / "model.pt2")
    write_signature(
        tree, shape, declared=declared or {"batch": (1, 4)}, outputs=outputs, dtype=dtype
    )
    return tree


def write_signature(
    tree: Path,
    shape: tuple[int, ...],
    *,
    declared: dict[str, tuple[int, int]],
    outputs: tuple[str, ...] = ("y",),
    dtype: str = "float32",
) -> None:
    signature = Signature(
        inputs=(Tensor(name="given", shape=("batch", *shape), dtype=dtype),),
        outputs=tuple(Tensor(name=name, shape=("batch",), dtype="float32") for name in outputs),
        dims=declared,
    )
    (tree / "signature.json").write_text(json.dumps(signature.to_json()))


def convert(tree: Path, name: str = "out", **options: Any) -> Path:
    out = tree.parent / name
    out.mkdir()
    target.convert(
        model=tree, options={"compute": "float16", "on_mismatch": "fail"} | options, out=out
    )
    return out


def operations(artifact: Path) -> list[Any]:
    main = coreml.spec_of(artifact).mlProgram.functions["main"]
    return list(main.block_specializations[main.opset].operations)


def constants(artifact: Path) -> Iterator[np.ndarray[Any, Any]]:
    """The floating-point constants of the saved program, by coremltools' own reader."""
    from coremltools.converters.mil.frontend.milproto.load import load

    path = artifact / coreml.MODEL
    spec = coremltools.utils.load_spec(str(path))
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    for operation in program.functions["main"].operations:
        value = operation.outputs[0].val if operation.op_type == "const" else None
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            yield value


NETS = {
    "cnn": (Cnn, (3, 32, 32), {"conv", "max_pool"}),
    "masked": (Masked, (6, 16), {"softmax"}),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_is_converted_as_declared(tmp_path: Path, name: str) -> None:
    build, shape, expected = NETS[name]
    tree = exported(tmp_path, build(), shape)
    out = convert(tree)
    inputs, outputs = coreml.interface(out)
    assert inputs == (Tensor(name="given", shape=("batch", *shape), dtype="float32"),)
    assert [(tensor.name, tensor.dtype) for tensor in outputs] == [("y", "float32")]
    sizes = coreml.spec_of(out).description.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert (sizes[0].lowerBound, sizes[0].upperBound) == (1, 4)
    assert expected <= {operation.type for operation in operations(out)}
    audit = target.precision(artifact=out)
    assert audit.delivered == "fp16"
    assert audit.weights["float16"] > 1.9 * sum(p.numel() for p in build().parameters())
    assert not any(np.isnan(value).any() for value in constants(out))


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    tree = exported(tmp_path, Cnn(), (3, 32, 32))
    outs = [convert(tree, name) for name in ("first", "second")]
    files = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in outs
    ]
    assert files[0] == files[1]
    assert sorted(path.name for path in files[0]) == [
        "Manifest.json",
        "model.mlmodel",
        "weight.bin",
    ]


def test_a_recurrent_network_with_a_fixed_batch(tmp_path: Path) -> None:
    tree = exported(tmp_path, Recurrent(), (5, 8), dynamic=False)
    text = (tree / "signature.json").read_text().replace('"batch", 5', "2, 5")
    (tree / "signature.json").write_text(text)
    out = convert(tree)
    assert "lstm" in {operation.type for operation in operations(out)}
    assert coreml.interface(out)[0][0].shape == (2, 5, 8)


def test_a_dimension_that_the_export_fixed_is_an_error(tmp_path: Path) -> None:
    tree = exported(tmp_path, Cnn(), (3, 32, 32), dynamic=False)
    with pytest.raises(
        StageError,
        match="dimension 'batch' of input 'given' was fixed to 2 by the export, though 1",
    ):
        convert(tree)


def test_a_dimension_that_the_export_limited_is_an_error(tmp_path: Path) -> None:
    tree = exported(tmp_path, Cnn(), (3, 32, 32), declared={"batch": (1, 9)})
    with pytest.raises(StageError, match=r"was limited to .* 4 by the export, though 1 to 9"):
        convert(tree)


def test_equal_constants_subtracted_twice_keep_their_signs(tmp_path: Path) -> None:
    out = convert(exported(tmp_path, TwoOffsets(), (3, 4, 4)))
    biases = [v for v in constants(out) if v.shape == (8,) and np.abs(v).max() == 8]
    assert biases
    assert all((value == -np.arange(1, 9)).all() for value in biases)


def test_integers_become_int32(tmp_path: Path) -> None:
    tree = exported(tmp_path, Embedding(), (7,), outputs=("mean", "best"), dtype="int64")
    inputs, outputs = coreml.interface(convert(tree))
    assert inputs[0].dtype == "int32"
    assert [(tensor.name, tensor.dtype) for tensor in outputs] == [
        ("mean", "float32"),
        ("best", "int32"),
    ]


def test_a_traced_program(tmp_path: Path) -> None:
    tree = tmp_path / "program"
    tree.mkdir()
    module = Cnn().eval()
    torch.jit.trace(module, torch.rand(2, 3, 32, 32)).save(str(tree / "model.ts"))
    write_signature(tree, (3, 32, 32), declared={"batch": (1, 4)})
    inputs, outputs = coreml.interface(convert(tree, minimum="iOS17"))
    assert inputs[0].shape == ("batch", 3, 32, 32)
    assert [(tensor.name, tensor.dtype) for tensor in outputs] == [("y", "float32")]


def test_an_operator_without_equivalent_is_named_with_its_layer(tmp_path: Path) -> None:
    tree = exported(tmp_path, Unsupported(), (4,))
    with pytest.raises(
        StageError, match=r"Core ML has no equivalent of aten\.special_i0\.default \(layer bessel\)"
    ) as caught:
        convert(tree)
    assert "remove this target" in caught.value.fix


def test_more_than_five_dimensions_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"Core ML: cannot be converted.*rank"):
        convert(exported(tmp_path, RankSix(), (32,)))


def test_a_network_with_nan_is_refused(tmp_path: Path) -> None:
    module = Cnn()
    module.head.weight.data[0, 0] = float("nan")
    with pytest.raises(StageError, match="the converted model has NaN in"):
        convert(exported(tmp_path, module, (3, 32, 32)))


def test_a_file_that_is_no_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="cannot be read as a Core ML package"):
        target.precision(artifact=tmp_path)


@pytest.mark.parametrize("name", NETS)
def test_a_network_computes_what_torch_does_on_every_host(tmp_path: Path, name: str) -> None:
    build, shape, _ = NETS[name]
    torch.manual_seed(1)
    module, x = build().eval(), torch.rand(3, *shape)
    out = convert(exported(tmp_path, module, shape))
    wanted = module(x).detach().numpy()
    for ideal, tolerance in ((True, 0.002), (False, 0.01)):
        session = coreml.evaluated(artifact=out, ideal=ideal)
        assert session.outputs[0].shape == ("y_0", *wanted.shape[1:])
        found = session.run({"given": x.numpy()})["y"]
        np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


def test_the_recurrent_network_computes_what_torch_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module, x = Recurrent().eval(), torch.rand(2, 5, 8)
    tree = exported(tmp_path, module, (5, 8), dynamic=False)
    text = (tree / "signature.json").read_text().replace('"batch", 5', "2, 5")
    (tree / "signature.json").write_text(text)
    found = coreml.evaluated(artifact=convert(tree)).run({"given": x.numpy()})["y"]
    np.testing.assert_allclose(found, module(x).detach().numpy(), atol=0.002)


@pytest.mark.parametrize("system", ["iOS16", "iOS17"])
def test_the_weights_of_a_recurrent_network_are_stored_in_fp16(tmp_path: Path, system: str) -> None:
    tree = exported(tmp_path, Recurrent(), (5, 8), dynamic=False)
    text = (tree / "signature.json").read_text().replace('"batch", 5', "2, 5")
    (tree / "signature.json").write_text(text)
    held = coreml_audit.precision(artifact=convert(tree, minimum=system))
    assert held.delivered == "fp16"
    assert held.weights["float16"] > 10 * held.weights.get("float32", 0)


def test_weights_beyond_fp16_stay_in_fp32(tmp_path: Path) -> None:
    module = Recurrent()
    module.lstm.weight_hh_l0.data[0, 0] = 1e6
    tree = exported(tmp_path, module, (5, 8), dynamic=False)
    text = (tree / "signature.json").read_text().replace('"batch", 5', "2, 5")
    (tree / "signature.json").write_text(text)
    held = coreml_audit.precision(artifact=convert(tree))
    assert held.weights["float32"] >= 4 * module.lstm.weight_hh_l0.numel()


class Attended(nn.Module):  # type: ignore[misc,name-defined]
    """Attention of which a row may be masked as a whole, where `least` makes it a mean."""

    def __init__(self, least: float, *, added: bool) -> None:
        super().__init__()
        self.least, self.added = least, added

    def forward(self, x: Any) -> Any:
        scores = x @ x.transpose(1, 2)
        hidden = x[:, :, :1].transpose(1, 2) < 0
        if self.added:
            masked = scores + hidden.float() * self.least
        else:
            masked = scores.masked_fill(hidden, self.least)
        return torch.softmax(masked, -1) @ x


@pytest.mark.parametrize(
    ("least", "added"), [(float(np.finfo(np.float32).min), False), (-1e9, True)]
)
def test_a_row_that_is_masked_as_a_whole_is_a_mean(
    tmp_path: Path, least: float, added: bool
) -> None:
    module = Attended(least, added=added)
    x = torch.rand(2, 6, 16) - 0.5
    x[1, :, 0] = -0.1
    found = coreml.evaluated(artifact=convert(exported(tmp_path, module, (6, 16))))
    np.testing.assert_allclose(found.run({"given": x.numpy()})["y"], module(x), atol=0.002)


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")
@pytest.mark.parametrize("units", ["all", "cpu_only"])
def test_a_network_runs_on_macos(units: str, tmp_path: Path) -> None:
    module = Cnn()
    out = convert(exported(tmp_path, module, (3, 32, 32)), compute_units=units)
    session = target.open(artifact=out)
    x = torch.rand(2, 3, 32, 32)
    given = session.run({"given": x.numpy()})["y"]
    np.testing.assert_allclose(given, module(x).detach().numpy(), atol=0.02)
    agreement = re.search(r"the reference evaluator agree to (.*) dB", remark(session))
    assert agreement
    assert float(agreement[1]) > 40


@pytest.mark.parametrize("units", ["all", "cpu_only"])
def test_a_package_knows_the_processors_it_was_made_for(
    units: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = convert(exported(tmp_path, Cnn(), (3, 32, 32)), compute_units=units)
    chosen = []
    monkeypatch.setattr(
        coremltools.models, "MLModel", lambda _, compute_units: chosen.append(compute_units)
    )
    coreml.core_ml(out)
    assert chosen == [coremltools.ComputeUnit[units.upper()]]


def test_usage_runs(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    module = Cnn()
    out = convert(exported(tmp_path, module, (3, 32, 32)))
    x = torch.rand(1, 3, 32, 32)
    vectors = {"0/in/given": x.numpy(), "0/out/y": module(x).detach().numpy()}
    save_file(vectors, out / "vectors.safetensors")
    manifest = {
        "model": "net",
        "version": "1",
        "target": "coreml-fp16",
        "files": [{"path": f"{coreml.MODEL}/{coreml.SPEC}"}],
        "inputs": [{"name": "given", "shape": ["batch", 3, 32, 32], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": ["batch", 10], "dtype": "float32"}],
    }
    code = re.search(r"```python\n(.*?)```", target.usage(manifest=manifest), re.DOTALL)
    assert code
    printed = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=out, capture_output=True, text=True, check=True
    ).stdout
    if sys.platform != "darwin":
        assert printed == "inputs: ['given']\noutputs: ['y']\n"
