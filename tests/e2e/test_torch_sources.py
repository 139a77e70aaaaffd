"""PyTorch sources in their breadth: files, nested inputs, state, checkpoints, and the examples."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_nets as nets
from cli import crosscast

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.signature import Signature, Tensor, permute
from crosscast.pipeline.sources import torch as source_of
from crosscast.pipeline.sources.outputs import examples
from crosscast.pipeline.sources.torch_weights import Weights, load_weights

pytestmark = [
    pytest.mark.e2e,
    # torch's exporters warn of their own deprecations
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROOT = Path(__file__).parents[2]
NETS = Path(nets.__file__)
DIMS = {"batch": (1, 4), "time": (3, 9)}


def tensor(name: str, *shape: int | str, dtype: str = "float32", **more: Any) -> Tensor:
    return Tensor(name=name, shape=shape, dtype=dtype, **more)


def inputs(*tensors: Tensor) -> Signature:
    used = {dim for entry in tensors for dim in entry.shape}
    return Signature(
        inputs=tensors, dims={name: sizes for name, sizes in DIMS.items() if name in used}
    )


ROW = inputs(tensor("x", "batch", 4))
NONE = Signature(inputs=())


def net(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "torch", "factory": f"{NETS}:{name}", **more}


def file(path: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "torch", "file": str(path), **more}


def proven(
    source: dict[str, Any], declared: Signature, out: Path, *, layout: Any = None, opset: int = 18
) -> tuple[Signature, dict[str, Any]]:
    """The source's ONNX runs, and gives on both examples what the source gives."""
    import onnxruntime

    signature = source_of.signature(source=source, declared=declared)
    out.mkdir(parents=True)
    notes = source_of.export(
        to="onnx",
        source=source,
        signature=signature,
        outputs=None,
        opset=opset,
        layout=layout,
        program=None,
        out=out,
    )
    reference = source_of.load(source=source, signature=signature, outputs=None)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [t.name for t in signature.inputs]
    assert [value.name for value in session.get_outputs()] == [t.name for t in reference.outputs]
    for arrays in examples(signature):
        want = permute(reference.run(arrays), tensors=reference.outputs, layout=layout)
        got = session.run(None, permute(arrays, tensors=signature.inputs, layout=layout))
        for mine, its in zip(want.values(), got, strict=True):
            assert mine.dtype == its.dtype
            np.testing.assert_allclose(its, mine, rtol=1e-4, atol=1e-5)
    told = Signature.from_json(json.loads((out / "signature.json").read_text()))
    return told, notes


@pytest.mark.parametrize(
    ("name", "signature", "outputs"),
    [
        (
            "recurrent",
            inputs(
                tensor("x", "batch", "time", 4),
                tensor("state.0", 1, "batch", 6),
                tensor("state.1", 1, "batch", 6),
            ),
            ["output_0", "output_1_0", "output_1_1"],
        ),
        (
            "streaming",
            inputs(
                tensor("x", "batch", 2, "time"),
                tensor("caches.0", "batch", 2, 2),
                tensor("caches.1", "batch", 4, 2),
            ),
            ["output_0", "output_1_0", "output_1_1"],
        ),
        (
            "keyword_only",
            inputs(
                tensor("x", "batch", 4), tensor("flag", "batch", 1, dtype="bool"), tensor("scale")
            ),
            ["output"],
        ),
        (
            "mapped",
            inputs(tensor("batch.x", "batch", 4), tensor("batch.mask", "batch", dtype="bool")),
            ["out_logits"],
        ),
        ("anything", inputs(tensor("a", "batch", 4), tensor("b", "batch", 4)), ["output"]),
        (
            "aliases",
            inputs(tensor("x", "batch", 4), tensor("y", "batch", dtype="int64")),
            ["output_0", "output_1", "output_2", "output_3_a", "output_3_b"],
        ),
        (
            "same_name",
            inputs(
                tensor("ids", "batch", dtype="int64", range=(0, 9)), tensor("state", "batch", 2)
            ),
            ["embedding", "state_out"],
        ),
        ("reparametrised", inputs(tensor("x", "batch", 4, 5)), ["output"]),
        ("lazy", inputs(tensor("image", "batch", 3, 6, 6, layout="nchw")), ["output"]),
        ("calls_script", ROW, ["output"]),
        ("half", inputs(tensor("input", "batch", 4)), ["output"]),
        ("guarded", ROW, ["output"]),
    ],
)
def test_networks_as_users_write_them(
    name: str, signature: Signature, outputs: list[str], tmp_path: Path
) -> None:
    told, _ = proven(net(name), signature, tmp_path / "o")
    assert [entry.name for entry in told.outputs] == outputs
    assert told.inputs == signature.inputs


def test_frozen_arguments_are_no_inputs(tmp_path: Path) -> None:
    signature = inputs(tensor("x", "batch", 4), tensor("flag", "batch", 1, dtype="bool"))
    source = net("keyword_only", freeze={"scale": 3.0, "mode": "multiply"})
    proven(source, signature, tmp_path / "o")
    reference = source_of.load(source=source, signature=signature, outputs=None)
    fed = {"x": np.ones((1, 4), np.float32), "flag": np.array([[True]])}
    assert reference.run(fed)["output"].tolist() == [[3.0] * 4]


def test_attention_that_sees_nothing_gives_zeros(tmp_path: Path) -> None:
    import onnxruntime

    signature = inputs(
        tensor("x", "batch", "time", 4), tensor("mask", "batch", "time", dtype="bool")
    )
    proven(net("masked"), signature, tmp_path / "o")
    session = onnxruntime.InferenceSession(tmp_path / "o/model.onnx")
    fed = {"x": np.ones((2, 3, 4), np.float32), "mask": np.array([[True] * 3, [False] * 3])}
    (found,) = session.run(None, fed)
    assert found[0].all()
    assert not found[1].any()


def test_a_branch_that_the_examples_miss_is_found(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="data-dependent control flow"):
        proven(net("far_branch"), ROW, tmp_path / "o")


def test_an_output_cannot_have_an_inputs_name() -> None:
    with pytest.raises(StageError, match="outputs: 'x' is the name of an input"):
        source_of.load(source=net("half"), signature=ROW, outputs=["x"])


def scripted(path: Path, *, trace: bool = False) -> Path:
    module = nets.made(nets.Branching)
    made = torch.jit.trace(module.layer, torch.zeros(2, 4)) if trace else torch.jit.script(module)
    made.save(str(path))
    return path


def test_torchscript_folds_what_a_frozen_argument_decides(tmp_path: Path) -> None:
    import onnx

    path = scripted(tmp_path / "named_like_weights.pth")
    source = file(path, freeze={"deep": True, "times": 2})
    _, notes = proven(source, ROW, tmp_path / "o")
    assert notes["reason"] == "torch.export takes no TorchScript"
    nodes = {node.op_type for node in onnx.load(tmp_path / "o/model.onnx").graph.node}
    assert not nodes & {"If", "Loop"}
    assert source_of.files(source) == {"model": path}


def test_a_part_of_torchscript_is_the_model(tmp_path: Path) -> None:
    path = scripted(tmp_path / "m.pt")
    proven(file(path, submodule="layer"), inputs(tensor("input", "batch", 4)), tmp_path / "o")
    with pytest.raises(StageError, match="there is no 'lair'") as caught:
        source_of.load(source=file(path, submodule="lair"), signature=ROW, outputs=None)
    assert "it has layer" in caught.value.fix


def test_a_trace_tells_its_own_inputs_and_a_script_does_not(tmp_path: Path) -> None:
    told, _ = proven(file(scripted(tmp_path / "t.pt", trace=True)), NONE, tmp_path / "o")
    assert told.inputs == (tensor("input", 2, 4),)
    with pytest.raises(StageError, match="does not tell its inputs' shapes") as caught:
        source_of.signature(source=file(scripted(tmp_path / "s.pt")), declared=NONE)
    assert "forward() takes x, deep, times" in caught.value.fix


def test_torchscript_that_keeps_state_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nets.made(nets.Stateful)).save(str(tmp_path / "m.pt"))
    with pytest.raises(StageError, match="keeps state from call to call in last") as caught:
        source_of.load(source=file(tmp_path / "m.pt"), signature=ROW, outputs=None)
    assert "`submodule` (it has inner)" in caught.value.fix


def program(path: Path) -> Path:
    batch = torch.export.Dim("rows", min=1, max=4)
    row, state = torch.zeros(2, 2, 5), (torch.ones(2, 2, 2), torch.zeros(2, 4, 2))
    shapes = {"x": {0: batch}, "caches": ({0: batch}, {0: batch})}
    made = torch.export.export(nets.made(nets.Streaming), (row, state), dynamic_shapes=shapes)
    torch.export.save(made, path)
    return path


@pytest.mark.parametrize("name", ["m.pt2", "m.pt"])
def test_a_program_tells_its_inputs(name: str, tmp_path: Path) -> None:
    torch.export.save(torch.export.load(program(tmp_path / "p.pt2")), tmp_path / "m.pt2")
    path = (tmp_path / "m.pt2").rename(tmp_path / name)
    told, notes = proven(file(path), NONE, tmp_path / "o")
    assert [(entry.name, entry.shape) for entry in told.inputs] == [
        ("x", ("batch", 2, 5)),
        ("caches_0", ("batch", 2, 2)),
        ("caches_1", ("batch", 4, 2)),
    ]
    assert told.dims == {"batch": (1, 4)}
    assert notes["exporter"] == "torch.onnx"


def test_a_program_as_the_config_declares_it(tmp_path: Path) -> None:
    source = file(program(tmp_path / "m.pt2"))
    declared = Signature(inputs=(tensor("x", 2, 2, 5, range=(0, 1)),))
    told = source_of.signature(source=source, declared=declared)
    assert told.inputs[0].range == (0, 1)
    for wrong, message in (
        (tensor("y", 2, 2, 5), "m.pt2 has no input 'y'; it has x, caches_0"),
        (tensor("x", 2, 5), "number of dimensions 2, m.pt2 has 3"),
        (tensor("x", 2, 2, 5, dtype="int64"), "dtype int64, m.pt2 has float32"),
    ):
        with pytest.raises(StageError, match=message):
            source_of.signature(source=source, declared=Signature(inputs=(wrong,)))
    with pytest.raises(StageError, match="is an exported program"):
        source_of.load(source=source | {"submodule": "a"}, signature=told, outputs=None)


def test_a_program_goes_on_as_it_is_and_in_another_layout(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    made = torch.export.export(module, (torch.zeros(2, 3, 8, 8),))
    torch.export.save(made, tmp_path / "m.pt2")
    told, _ = proven(file(tmp_path / "m.pt2"), NONE, tmp_path / "a")
    assert told.outputs[0].shape == (2, 4, 6, 6)
    told, _ = proven(file(tmp_path / "m.pt2"), NONE, tmp_path / "b", layout="nhwc")
    assert told.inputs[0].shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save({"a": torch.ones(1)}, path), "a pickle of torch.save"),
        (lambda path: torch.save(torch.nn.Linear(1, 1), path), "a pickle of torch.save"),
        (
            lambda path: torch.save({}, path, _use_new_zipfile_serialization=False),
            "is a pickle .*, not a model that can run",
        ),
        (lambda path: path.write_bytes(b'\x08\0\0\0\0\0\0\0{"a": 1}'), "a safetensors file"),
        (lambda path: path.write_bytes(bytes(range(256))), "neither TorchScript nor an exported"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)), "truncated"),
    ],
)
def test_files_that_are_no_models(
    write: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "m.pt2")
    with pytest.raises(StageError, match=message) as caught:
        source_of.signature(source=file(tmp_path / "m.pt2"), declared=ROW)
    assert caught.value.fix


def linear() -> torch.nn.Module:
    return torch.nn.Linear(4, 4)


def state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((4, 4), value), "bias": torch.full((4,), value)}


def test_a_checkpoint_gives_the_weights_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    config = argparse.Namespace(lr=0.1, when=np.float64(3))
    content = {
        "state_dict": {f"net.{name}": entry for name, entry in state(1).items()}
        | {"loss.scale": torch.ones(1)},
        "ema": {"shadow": state(2)},
        "hyper_parameters": config,
        "best": np.float32(0.5),
        "epoch": 3,
    }
    torch.save(content, path)
    for key, prefix, value in (("state_dict", "net.", 1.0), ("ema.shadow", "", 2.0)):
        module = linear()
        load_weights(module, Weights(path=path, key=key, prefix=prefix))
        assert module.bias.tolist() == [value] * 4
    for wrong, message, fix in (
        (Weights(path=path), "is not a state_dict", "by `weights_key`: state_dict, ema.shadow"),
        (Weights(path=path, key="emo"), "has nothing at 'emo'", "state_dict, ema.shadow"),
        (Weights(path=path, key="state_dict"), "does not fit", "`weights_prefix: net.`"),
        (Weights(path=path, key="ema.shadow", prefix="x."), "no key that begins with 'x.'", ""),
    ):
        with pytest.raises(StageError, match=message) as caught:
            load_weights(linear(), wrong)
        assert fix in caught.value.fix


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return warnings.warn, ("ran",)

    torch.save({"state_dict": state(), "more": Evil()}, tmp_path / "c.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = linear()
        load_weights(module, Weights(path=tmp_path / "c.pth", key="state_dict"))
    assert module.bias.tolist() == [1.0] * 4


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_read_by_their_index(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save: Any = save_file if name.endswith("safetensors") else torch.save
    for part, entry in state().items():
        save({part: entry}, tmp_path / f"{part}-{name}")
    index = tmp_path / f"{name}.index.json"
    places = {part: f"{part}-{name}" for part in state()}
    index.write_text(json.dumps({"weight_map": places}))
    module = linear()
    load_weights(module, Weights(path=index))
    assert module.bias.tolist() == [1.0] * 4
    assert str(tmp_path / f"bias-{name}") in source_of.dependencies()
    for places, message in (
        ({"weight": "../w"}, "names the shard '../w', which is no file beside it"),
        ({"weight": f"bias-{name}"}, "has no tensor 'weight'"),
        ({"weight": "lost"}, "lost does not exist"),
        (None, "no 'weight_map'"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(StageError, match=message):
            load_weights(linear(), Weights(path=index))


def test_tied_weights_are_there_once(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name in ("head.weight", "embed.weight"):
        save_file({name: torch.eye(4)}, tmp_path / "w.safetensors")
        module = nets.made(nets.Tied)
        load_weights(module, Weights(path=tmp_path / "w.safetensors"))
        assert torch.equal(module.head.weight, torch.eye(4))
        assert module.head.weight is module.embed.weight


def test_what_the_transformers_library_does_by_default_is_no_obstacle(tmp_path: Path) -> None:
    told, notes = proven(net("decoder"), ROW, tmp_path / "o")
    assert [entry.name for entry in told.outputs] == ["logits"]
    assert notes["exporter"] == "torch.onnx"


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("configs/silero-vad.yaml", "silero-vad/6.2.3"),
        ("configs/minilm.yaml", "all-minilm-l6-v2/2.0.0"),
        ("configs/digits-vae.yaml", "digits-vae/1.0.0"),
    ],
)
def test_the_examples_pass_on_every_target(
    config: str, model: str, tmp_path: Path, cache: Path
) -> None:
    done = crosscast("build", ROOT / config, "--out", tmp_path, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.name: path / "manifest.json" for path in (tmp_path / model).iterdir()}
    assert {"onnx", "tflite-fp32"} <= set(built)
    for target, path in built.items():
        verdict = json.loads(path.read_text())["verdict"]
        assert verdict["status"] == "passed" or target.startswith("coreml"), (target, verdict)
