"""Sources with their real frameworks: torch, its exporters, ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import example
from crosscast.pipeline.signature import Signature, Tensor, permute
from crosscast.pipeline.sources import onnx as onnx_source
from crosscast.pipeline.sources import torch as torch_source
from crosscast.pipeline.sources.outputs import examples

pytestmark = [
    pytest.mark.e2e,
    # torch's exporters warn of their own deprecations
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NETS = Path(__file__).with_name("nets.py")

IMAGE = Tensor(
    name="image", shape=("batch", 3, "height", 16), dtype="float32", layout="nchw", range=(-1, 1)
)
IMAGES = Signature(inputs=(IMAGE,), dims={"batch": (1, 4), "height": (8, 32)})
TOKENS = Signature(
    inputs=tuple(
        Tensor(name=name, shape=("batch", "length"), dtype="int64", range=(0, high))
        for name, high in (("ids", 9), ("kinds", 1))
    ),
    dims={"batch": (1, 4), "length": (2, 12)},
)
SERIES = Signature(
    inputs=(Tensor(name="x", shape=("batch", 7, 4), dtype="float32"),), dims={"batch": (1, 4)}
)
ROW = Signature(inputs=(Tensor(name="x", shape=(2, 4), dtype="float32"),))


def torch_net(name: str, weights: Path | None = None) -> dict[str, Any]:
    return {"kind": "torch", "factory": f"{NETS}:{name}", "weights": weights and str(weights)}


def run_export(
    source: dict[str, Any], signature: Signature, out: Path, to: str, **more: Any
) -> Any:
    out.mkdir(parents=True)
    module = torch_source if source["kind"] == "torch" else onnx_source
    parameters: dict[str, Any] = {"outputs": None, "opset": None, "layout": None, "program": None}
    return module.export(
        to=to,
        source=source,
        signature=signature,
        out=out,
        **(parameters | more),  # type: ignore[arg-type]
    )


def exported(
    source: dict[str, Any], signature: Signature, out: Path, **more: Any
) -> SimpleNamespace:
    """The program, the ONNX made from it, and the notes of both."""
    opset = more.pop("opset", None)
    first = run_export(source, signature, out / "program", "exported_program", **more)
    second = run_export(
        source, signature, out / "onnx", "onnx", opset=opset, program=out / "program", **more
    )
    return SimpleNamespace(program=first, onnx=second, tree=out / "onnx")


def delivered(tree: Path) -> Signature:
    import json

    return Signature.from_json(json.loads((tree / "signature.json").read_text()))


def agrees(source: dict[str, Any], signature: Signature, tree: Path, **more: Any) -> None:
    """The ONNX gives what the source gives, on both examples, in the delivered layout."""
    import onnxruntime

    layout = more.pop("layout", None)
    module = torch_source if source["kind"] == "torch" else onnx_source
    reference = module.load(source=source, signature=signature, outputs=more.get("outputs"))
    session = onnxruntime.InferenceSession(tree / "model.onnx", providers=["CPUExecutionProvider"])
    told = delivered(tree)
    names = [tensor.name for tensor in told.outputs]
    assert [value.name for value in session.get_inputs()] == [t.name for t in told.inputs]
    assert [value.name for value in session.get_outputs()] == names
    for value, tensor in zip(session.get_inputs(), told.inputs, strict=True):
        assert tuple(value.shape) == tensor.shape
    for arrays in examples(signature):
        want = permute(reference.run(arrays), tensors=reference.outputs, layout=layout)
        fed = permute(arrays, tensors=signature.inputs, layout=layout)
        got = dict(zip(names, session.run(None, fed), strict=True))
        assert list(want) == names
        for name in names:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "signature", "outputs"),
    [
        ("cnn", IMAGES, ["output"]),
        ("dict_outputs", IMAGES, ["features", "pooled"]),
        ("dataclass_outputs", IMAGES, ["features", "pooled"]),
        ("tuple_with_none", IMAGES, ["output_0", "output_1"]),
        ("swapped_keywords", TOKENS, ["output"]),
        ("two_inputs", TOKENS, ["output"]),
        ("lstm", SERIES, ["output_0", "output_1_0", "output_1_1"]),
        ("attention", SERIES, ["output"]),
        ("unused_input", TOKENS, ["output"]),
        ("keeps_state", ROW, ["output"]),
    ],
)
def test_nets_of_every_kind_become_a_program_and_onnx(
    net: str, signature: Signature, outputs: list[str], tmp_path: Path
) -> None:
    source = torch_net(net)
    made = exported(source, signature, tmp_path)
    assert made.program["exporter"] == "torch.export"
    assert made.onnx == {"exporter": "torch.onnx", "opset": 18}
    assert [tensor.name for tensor in delivered(made.tree).outputs] == outputs
    agrees(source, signature, made.tree)


def test_dynamic_dimensions_keep_their_names_in_the_outputs(tmp_path: Path) -> None:
    made = exported(torch_net("dict_outputs"), IMAGES, tmp_path)
    features, pooled = delivered(made.tree).outputs
    assert features.shape == ("batch", 4, "height", 16)
    assert features.layout == "nchw"
    assert pooled.shape == ("batch", 4)


def test_outputs_bear_the_names_of_the_config(tmp_path: Path) -> None:
    source = torch_net("dict_outputs")
    made = exported(source, IMAGES, tmp_path, outputs=["a", "b"])
    agrees(source, IMAGES, made.tree, outputs=["a", "b"])
    with pytest.raises(StageError, match=r"3 names .* for a model that gives 2"):
        torch_source.load(source=source, signature=IMAGES, outputs=["a", "b", "c"])


@pytest.mark.parametrize("opset", [13, 17])
def test_old_opsets_come_from_the_exporter_that_traces(opset: int, tmp_path: Path) -> None:
    source = torch_net("cnn")
    made = exported(source, IMAGES, tmp_path, opset=opset)
    assert made.onnx["exporter"] == "torchscript"
    assert made.onnx["opset"] == opset
    assert f"opset {opset} is below 18" in made.onnx["reason"]
    agrees(source, IMAGES, made.tree)


def test_unused_inputs_survive_a_trace(tmp_path: Path) -> None:
    source = torch_net("unused_input")
    agrees(source, TOKENS, exported(source, TOKENS, tmp_path, opset=17).tree)


@pytest.mark.parametrize("opset", [18, 22])
def test_the_opset_delivered_is_the_one_asked_for(opset: int, tmp_path: Path) -> None:
    import onnx

    made = exported(torch_net("cnn"), IMAGES, tmp_path, opset=opset)
    assert made.onnx == {"exporter": "torch.onnx", "opset": opset}
    opsets = onnx.load(made.tree / "model.onnx").opset_import
    assert [(entry.domain, entry.version) for entry in opsets] == [("", opset)]


@pytest.mark.parametrize("opset", [6, 23])
def test_opsets_that_no_exporter_delivers_soundly_are_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=f"opset {opset} .*") as caught:
        run_export(torch_net("cnn"), IMAGES, tmp_path / "o", "onnx", opset=opset)
    assert "from 7 to 22" in caught.value.fix


def test_onnx_without_a_program_makes_its_own(tmp_path: Path) -> None:
    source = torch_net("cnn")
    run_export(source, IMAGES, tmp_path / "o", "onnx")
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {"model.onnx", "signature.json", "notes.json"}
    agrees(source, IMAGES, tmp_path / "o")


def test_the_program_takes_every_declared_size(tmp_path: Path) -> None:
    import torch

    run_export(torch_net("cnn"), IMAGES, tmp_path / "p", "exported_program")
    module = torch.export.load(tmp_path / "p" / "model.pt2").module()
    for batch, height in ((1, 8), (4, 32)):
        assert module(torch.zeros(batch, 3, height, 16)).shape == (batch, 5)


def test_layout_is_changed_by_the_program_and_by_onnx(tmp_path: Path) -> None:
    source = torch_net("dict_outputs")
    made = exported(source, IMAGES, tmp_path / "a", layout="nhwc")
    assert delivered(made.tree).inputs[0].shape == ("batch", "height", 16, 3)
    agrees(source, IMAGES, made.tree, layout="nhwc")
    run_export(source, IMAGES, tmp_path / "p", "exported_program")
    run_export(source, IMAGES, tmp_path / "o", "onnx", program=tmp_path / "p", layout="nhwc")
    agrees(source, IMAGES, tmp_path / "o", layout="nhwc")


def test_harmless_untraceable_code_falls_back_with_its_reason(tmp_path: Path) -> None:
    source = torch_net("branches_alike")
    made = exported(source, ROW, tmp_path)
    assert made.program["exporter"] == made.onnx["exporter"] == "torchscript"
    assert "torch.export failed" in made.program["reason"]
    assert made.onnx["reason"] == made.program["reason"]
    assert (tmp_path / "program" / "model.ts").exists()
    agrees(source, ROW, made.tree)


def test_data_dependent_control_flow_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="data-dependent control flow") as caught:
        run_export(torch_net("branches"), ROW, tmp_path / "p", "exported_program")
    assert "torch.where" in caught.value.fix


def test_a_specialised_dimension_is_named_with_its_range(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"fixes a dimension \('batch' \[1, 4\]\)") as caught:
        run_export(torch_net("batch_branches"), SERIES, tmp_path / "p", "exported_program")
    assert "torch.export failed" in caught.value.message


def test_a_size_that_the_model_cannot_take_is_named_with_its_range() -> None:
    with pytest.raises(StageError, match=r"x\[3,7,4\] float32 \(of batch \[1, 4\]\): RuntimeError"):
        torch_source.load(source=torch_net("fixes_batch"), signature=SERIES, outputs=None)


def test_an_operator_without_onnx_is_named_with_its_layer(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"operator aten.*in layer 'odd'.*opset 18") as caught:
        exported(torch_net("no_onnx"), ROW, tmp_path)
    assert "torch.onnx for TorchScript" in caught.value.message


def test_refused_inputs_are_told_with_shapes_layer_and_line() -> None:
    wrong = Signature(inputs=(Tensor(name="image", shape=(2, 4, 8, 8), dtype="float32"),))
    with pytest.raises(StageError) as caught:
        torch_source.load(source=torch_net("cnn"), signature=wrong, outputs=None)
    message = caught.value.message
    assert "the model refuses inputs image[2,4,8,8] float32: RuntimeError" in message
    assert "in layer 'first'" in message
    assert "nets.py" in message


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("gives_none", "gave None, not a torch.nn.Module"),
        ("gives_class", "gave the class CNN itself"),
        ("gives_state", "gave a OrderedDict"),
        ("returns_float", "returns a float as output score"),
        ("returns_nothing", "returns no tensor"),
    ],
)
def test_factories_that_give_something_else(factory: str, message: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        torch_source.load(source=torch_net(factory), signature=IMAGES, outputs=None)
    assert caught.value.fix


def test_the_reference_starts_every_run_from_the_same_state() -> None:
    reference = torch_source.load(source=torch_net("keeps_state"), signature=ROW, outputs=None)
    arrays = example(ROW)
    first, second = reference.run(arrays), reference.run(arrays)
    np.testing.assert_array_equal(first["output"], second["output"])


def state() -> dict[str, Any]:
    import torch

    return {name: torch.ones(shape) for name, shape in (("l.weight", (4, 4)), ("l.bias", (4,)))}


def text_of(write: Callable[[Path], None], path: Path) -> StageError:
    write(path)
    with pytest.raises(StageError) as caught:
        torch_source.load(source=torch_net("row", path), signature=ROW, outputs=None)
    assert str(path) in caught.value.message
    assert caught.value.fix
    return caught.value


def test_weights_are_loaded(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.save(state(), tmp_path / "w.pth")
    save_file(state(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        source = torch_net("row", tmp_path / name)
        reference = torch_source.load(source=source, signature=ROW, outputs=None)
        result = reference.run({"x": np.ones((2, 4), np.float32)})
        np.testing.assert_array_equal(result["output"], np.full((2, 4), 5, np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [s], "holds a list, not a state_dict"),
        (lambda s: {"epoch": 3, "model": s}, "not a state_dict .* it holds epoch, model"),
        (lambda s: {"l.weight": s["l.weight"]}, "1 missing from the file: l.bias"),
        (lambda s: s | {"more": s["l.bias"]}, "1 in the file but not in the model: more"),
        (
            lambda s: s | {"l.bias": s["l.weight"]},
            r"1 of another shape: l.bias \[4, 4\] in the file",
        ),
        (lambda s: s | {"l.bias": s["l.bias"] * float("nan")}, "NaN or infinite values in l.bias"),
        (
            lambda _: SimpleNamespace(a=1),
            "holds more than tensors: a pickled types.SimpleNamespace",
        ),
    ],
)
def test_weights_that_do_not_fit(change: Any, message: str, tmp_path: Path) -> None:
    import re

    import torch

    error = text_of(lambda path: torch.save(change(state()), path), tmp_path / "w.pth")
    assert re.search(message, error.message), error.message


def test_a_common_prefix_is_told(tmp_path: Path) -> None:
    import torch

    def write(path: Path) -> None:
        torch.save({f"module.{name}": value for name, value in state().items()}, path)

    error = text_of(write, tmp_path / "w.pth")
    assert "2 missing from the file" in error.message
    assert "set `weights_prefix: module.`" in error.fix


def test_a_torchscript_archive_is_no_state_dict(tmp_path: Path) -> None:
    import torch

    module = torch.jit.trace(torch.nn.Linear(4, 4), torch.zeros(2, 4))
    error = text_of(lambda path: module.save(str(path)), tmp_path / "w.pt")
    assert "TorchScript archive" in error.message


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_half_and_alien_files_are_not_weights(name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / name
    save = save_file if name.endswith("safetensors") else torch.save
    save(state(), path)
    half = path.read_bytes()[: path.stat().st_size // 2]
    assert "truncated" in text_of(lambda path: path.write_bytes(half) and None, path).message
    noise = bytes(range(256)) * 8
    text_of(lambda path: path.write_bytes(noise) and None, path)
    pickled = b"\x80\x02" + noise
    text_of(lambda path: path.write_bytes(pickled) and None, path)


def test_bytes_are_equal_over_processes_and_places(tmp_path: Path) -> None:
    trees = []
    for seed, place in (("1", "a"), ("2", "b/c")):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "nets.py").write_text(NETS.read_text())
        code = (
            "import sys; sys.path[:0] = [sys.argv[2]]\n"
            "from pathlib import Path\n"
            "import test_sources as t\n"
            "t.NETS = Path(sys.argv[1]) / 'nets.py'\n"
            "for net, opset in (('lstm', 18), ('lstm', 17), ('branches_alike', 18)):\n"
            "    signature = t.SERIES if net == 'lstm' else t.ROW\n"
            "    out = Path(sys.argv[1]) / f'{net}{opset}'\n"
            "    t.exported(t.torch_net(net), signature, out, opset=opset)\n"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(folder), str(NETS.parent)],
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
        )
        trees.append(
            {
                str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
        )
    assert trees[0].keys() == trees[1].keys()
    assert [name for name in trees[0] if trees[0][name] != trees[1][name]] == []
    assert not [name for name, data in trees[0].items() if str(tmp_path).encode() in data]


def onnx_model(folder: Path, *, ir_version: int = 8, external: bool = False) -> dict[str, Any]:
    """conv-like toy: y = relu(x) * w, its weight listed as an input too where IR is old."""
    import onnx
    from onnx import helper

    weight = onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), 2, np.float32), "w")
    inputs = [helper.make_tensor_value_info("image", 1, ["N", 3, None, 16])]
    if ir_version < 4:
        inputs.append(helper.make_tensor_value_info("w", 1, [1, 3, 1, 1]))
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["h"]), helper.make_node("Mul", ["h", "w"], ["y"])],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", 1, None)],
        [weight],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=ir_version
    )
    folder.mkdir()
    more = {"save_as_external_data": True, "location": "m.bin", "size_threshold": 0}
    onnx.save(model, folder / "m.onnx", **(more if external else {}))
    return {"kind": "onnx", "model": str(folder / "m.onnx")}


@pytest.mark.parametrize("layout", [None, "nhwc"])
def test_an_onnx_file_with_external_data(layout: Any, tmp_path: Path) -> None:
    source = onnx_model(tmp_path / "m", external=True)
    notes = run_export(source, IMAGES, tmp_path / "o", "onnx", layout=layout)
    assert notes == {"opset": 8}
    assert str(tmp_path / "m" / "m.bin") in onnx_source.dependencies()
    assert not (tmp_path / "o" / "model.onnx.data").exists()
    shape = ("batch", "height", 16, 3) if layout else ("batch", 3, "height", 16)
    told = delivered(tmp_path / "o")
    assert told.inputs[0].shape == told.outputs[0].shape == shape
    got = run_onnx(tmp_path / "o", example(IMAGES)["image"].transpose(0, 2, 3, 1))
    assert got.shape[-1] == 3


def run_onnx(tree: Path, image: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(tree / "model.onnx", providers=["CPUExecutionProvider"])
    if delivered(tree).inputs[0].layout == "nchw":
        image = image.transpose(0, 3, 1, 2)
    (result,) = session.run(None, {"image": image})
    np.testing.assert_array_equal(result, np.maximum(image, 0) * 2)
    return result.transpose(0, 2, 3, 1) if result.shape[1] == 3 else result


def test_an_old_onnx_file_that_lists_its_weights_as_inputs(tmp_path: Path) -> None:
    source = onnx_model(tmp_path / "m", ir_version=3)
    run_export(source, Signature(inputs=()), tmp_path / "o", "onnx", outputs=["scores"])
    told = delivered(tmp_path / "o")
    assert [tensor.name for tensor in told.inputs] == ["image"]
    assert [tensor.name for tensor in told.outputs] == ["scores"]


def test_the_onnx_reference_tells_refused_inputs(tmp_path: Path) -> None:
    source = onnx_model(tmp_path / "m")
    reference = onnx_source.load(source=source, signature=IMAGES, outputs=None)
    assert [tensor.name for tensor in reference.outputs] == ["y"]
    with pytest.raises(StageError, match=r"refuses inputs image\[2,4,8,16\]"):
        reference.run({"image": np.zeros((2, 4, 8, 16), np.float32)})
