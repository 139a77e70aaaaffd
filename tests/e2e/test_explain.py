"""Known faults are planted in known layers of real artifacts; the layer is named, with its line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli import crosscast
from mutate import Layer, ModelFile, OnnxFile, opened
from verdicts import asked_of

from crosscast.pipeline.build import _write_reference
from crosscast.pipeline.parity.explanation import Explanation
from crosscast.pipeline.parity.vectors import read_reference, read_signature, write_vectors
from crosscast.pipeline.stages import reference_to
from crosscast.pipeline.stages.explain import explain
from crosscast.pipeline.stages.verify import verify
from crosscast.targets import TARGETS
from crosscast.targets.families import coreml
from crosscast.targets.families.onnx_pieces import AT_ONCE, Pieces

pytestmark = [
    pytest.mark.e2e,
    # the evaluator of Core ML packages computes with torch
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

MIDDLE = 17
ENCODER = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.out = nn.Linear(size, size)
        self.first, self.second = nn.LayerNorm(size), nn.LayerNorm(size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def heads(self, x):
        return x.unflatten(-1, (4, -1)).transpose(1, 2)

    def attend(self, x):
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        scores = q @ k.transpose(-1, -2) / 4.0
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def forward(self, x):
        x = self.first(x + self.attend(x))
        wide = nn.functional.gelu(self.wide(x))
        return self.second(x + self.narrow(wide))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.blocks = nn.ModuleList(Block(64) for _ in range(3))
        self.head = nn.Linear(64, 10)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def build():
    torch.manual_seed(0)
    return Encoder()
"""
HEAD = """
model: encoder
version: 1.0.0
source: {torch: encoder.py:build}
inputs: {ids: {shape: [batch, 12], dtype: int64, range: [0, 99], batch: [1, 3]}}
outputs: [logits]
samples: {calibration: synthetic}
targets:
"""
CONFIG = (
    HEAD
    + """\
  onnx: {}
  onnx-int8: {parity: {min_snr_db: 90, reason: a limit that int8 cannot keep}}
  tflite-fp32: {}
  ort: {from: onnx}
"""
)
WHOLLY_INT8 = (
    HEAD
    + """\
  onnx: {}
  onnx-int8: {quantize: {operators: all}, on_mismatch: fail}
  tflite-int8: {on_mismatch: fail}
"""
)
LAYER = "blocks.1.wide/"
CALL = "wide = nn.functional.gelu(self.wide(x))"
LINE = f"encoder.py:{ENCODER[: ENCODER.index(CALL)].count(chr(10)) + 1} in forward: {CALL}"


def explained(honest: Path, artifact: Path, network: Path, scratch: Path) -> Explanation:
    """What is said of an artifact by the first two cases of the honest one.

    network: the tree of the float network. The verdict on it has to be that it failed.
    """
    manifest = json.loads((honest / "manifest.json").read_text())
    whole, reference = scratch / "whole", scratch / "reference"
    whole.mkdir()
    reference.mkdir()
    _write_reference(honest, manifest, whole)
    write_vectors(reference, islice(read_reference(whole), 2))
    shutil.copyfile(whole / "signature.json", reference / "signature.json")
    member: Any = TARGETS[honest.name]
    open_ = coreml.evaluated if member.format == "coreml" else member.open
    options = asked_of(
        member,
        open=reference_to(open_),
        no_runtime="",
        taps=reference_to(member.taps),
        instead="",
    )
    verdict = verify(
        artifact=artifact,
        signature=read_signature(reference),
        vectors=lambda: read_reference(reference),
        options=options,
    )
    assert verdict.status == "failed"
    inputs = {"model": artifact, "reference": reference, "exported": network}
    return explain(inputs=inputs, options=options, verdict=verdict, scratch=scratch)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a changed file goes; megabytes each, so none outlives its test."""
    made = tmp_path / "artifact"
    made.mkdir()
    yield made
    shutil.rmtree(made)


def layer_of(onnx: Path, place: int) -> str:
    """The name of a convolution or product, depthwise ones left out."""
    file = OnnxFile(onnx)
    found = [node for node in file.graph.node if node.op_type in ("Conv", "Gemm")]
    return str([node.name for node in found if file._groups(node) == 1][place])


def zeroed(layer: Layer) -> None:
    weight = layer.weight
    weight.write(np.zeros_like(weight.read()))


def swapped(layer: Layer) -> None:
    weight = layer.weight
    array = weight.read()
    weight.write(np.ascontiguousarray(array[np.arange(len(array)).reshape(-1, 2)[:, ::-1].ravel()]))


def unbiased(layer: Layer) -> None:
    bias = layer.bias
    bias.write(np.zeros_like(bias.read()))


def not_a_number(layer: Layer) -> None:
    bias = layer.bias
    bias.write(np.full_like(bias.read(), np.nan))


def rescaled(layer: Layer) -> None:
    scales = layer.scales
    assert scales is not None
    scales.write(scales.read() * np.float32(1.7))


FAULTS: list[tuple[str, Callable[[Layer], None], int]] = [
    ("onnx", zeroed, 0),
    ("onnx", not_a_number, MIDDLE),
    ("onnx-int8", unbiased, MIDDLE),
    ("onnx-int8", swapped, 8),
    ("tflite-fp32", swapped, 3),
    ("tflite-int8", zeroed, MIDDLE),
    ("tflite-int8", rescaled, -1),
]


@pytest.mark.parametrize(("target", "fault", "place"), FAULTS)
def test_the_faulty_layer_of_an_image_classifier_is_named(
    built: Path,
    folder: Path,
    tmp_path: Path,
    target: str,
    fault: Callable[[Layer], None],
    place: int,
) -> None:
    file = opened(built / target)
    fault(file.layers[place])
    file.save(folder)
    found = explained(built / target, folder, built / "onnx", tmp_path).to_json()
    assert found["layer"] == layer_of(built / "onnx", place), found["lines"]
    assert float(found["tensor"]["own_db"]) < 17


def test_a_wrong_scale_between_two_layers_is_named(
    built: Path, folder: Path, tmp_path: Path
) -> None:
    """Of one pair of QuantizeLinear and DequantizeLinear only what reads back is wrong."""
    file = OnnxFile(built / "onnx-int8")
    wanted = layer_of(built / "onnx", MIDDLE)
    (conv,) = [node for node in file.graph.node if node.name == wanted]
    read_back = f"{conv.output[0]}_DequantizeLinear_Output"
    (node,) = [node for node in file.graph.node if read_back in node.output]
    scale = file._constant(node.input[1])
    file.graph.initializer.append(
        file.onnx.numpy_helper.from_array(scale.read() * np.float32(3), "wrong")
    )
    node.input[1] = "wrong"
    file.save(folder)
    found = explained(built / "onnx-int8", folder, built / "onnx", tmp_path)
    assert found.to_json()["layer"] == wanted, found.lines()
    assert "DequantizeLinear" in found.lines()[1]


def test_a_package_s_faulty_layer_is_named(built: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "coreml-fp16" / coreml.MODEL, folder / coreml.MODEL)
    wanted = layer_of(built / "onnx", MIDDLE)
    weight = next(
        each.input[1] for each in OnnxFile(built / "onnx").graph.node if each.name == wanted
    )
    value = OnnxFile(built / "onnx")._constant(weight).read().astype(np.float16)
    held = {
        operation.outputs[0].name: operation.arguments["val"][0].value
        for operation in coreml.program(folder).block.operations
        if operation.type == "const"
    }
    (name,) = [
        name
        for name, array in held.items()
        if getattr(array, "shape", ()) == value.shape and np.array_equal(array, value)
    ]
    coreml.overwrite(folder, {name: np.zeros_like(value)})
    found = explained(built / "coreml-fp16", folder, built / "onnx", tmp_path)
    assert found.to_json()["layer"] == wanted, found.lines()


def test_an_export_that_is_wrong_is_blamed_first(built: Path, folder: Path, tmp_path: Path) -> None:
    file = opened(built / "onnx")
    zeroed(file.layers[MIDDLE])
    file.save(folder)
    found = explained(built / "onnx", folder, folder, tmp_path)
    assert found.culprit is None
    assert found.lines()[0].startswith("the export to ONNX is at fault")


def test_a_graph_is_run_in_pieces_with_values_replaced_in_its_branches_too(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def scaled(factor: float) -> Any:
        inner = helper.make_node("Mul", ["h", "by"], ["z"])
        by = helper.make_node("Constant", [], ["by"], value_float=factor)
        out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [3])
        return helper.make_graph([by, inner], "branch", [], [out])

    nodes = [
        helper.make_node("Add", ["x", "x"], ["h"]),
        *(helper.make_node("Identity", ["x"], [f"i{place}"]) for place in range(AT_ONCE)),
        helper.make_node("Constant", [], ["yes"], value_ints=[1]),
        helper.make_node("Cast", ["yes"], ["if"], to=TensorProto.BOOL),
        helper.make_node("Squeeze", ["if"], ["condition"]),
        helper.make_node(
            "If", ["condition"], ["y"], then_branch=scaled(3.0), else_branch=scaled(5.0)
        ),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    pieces = Pieces(tmp_path, scratch=tmp_path)
    assert pieces.made["y"].reads == ("h",)
    values = pieces.values()
    values["x"] = np.float32([1, 2, 3])
    assert list(dict(pieces.run(values))["y"]) == [6, 12, 18]
    own = dict(pieces.run(pieces.values(values), given={"h": np.float32([1, 1, 1])}))
    assert list(own["h"]) == [2, 4, 6], "what it computes itself"
    assert list(own["y"]) == [3, 3, 3], "what it makes of what it is given"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, str]:
    """The folder of a transformer's artifacts and what was said as they were built."""
    root = tmp_path_factory.mktemp("encoder")
    (root / "encoder.py").write_text(ENCODER)
    (root / "encoder.yaml").write_text(CONFIG)
    done = crosscast("build", root / "encoder.yaml", "--out", root / "out", cache=cache)
    assert done.returncode == 4, done.stdout + done.stderr
    return root / "out/encoder/1.0.0", done.stdout


def products(file: Any) -> list[Any]:
    """The weights of a transformer's file, in its order."""
    if isinstance(file, OnnxFile):
        named = [each for each in file.graph.node if each.name.startswith(LAYER)]
        names = [name for each in named for name in each.input if name in file.tensors]
        return [file._constant(name) for name in names if len(file.tensors[name].dims) == 2]
    return [each.weight for each in file.layers if each.weight.read().size == 64 * 256][2:3]


@pytest.mark.parametrize("target", ["onnx", "tflite-fp32"])
def test_the_faulty_layer_of_a_transformer_is_named_with_its_line(
    encoder: tuple[Path, str], folder: Path, cache: Path, target: str
) -> None:
    """By the command, on an artifact whose file was changed."""
    file = opened(encoder[0] / target)
    (weight,) = products(file)
    weight.write(-weight.read())
    shutil.copytree(encoder[0] / target, folder, dirs_exist_ok=True)
    file.save(folder)
    config = encoder[0].parents[2] / "encoder.yaml"
    done = crosscast("explain", folder, "--config", config, "--json", cache=cache)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["status"] == "failed"
    assert found["layer"].startswith(LAYER), found["lines"]
    assert LINE in found["source"]


@pytest.fixture(scope="module")
def int8(encoder: tuple[Path, str], cache: Path) -> Path:
    """The folder of the transformer's artifacts with all that can be in int8."""
    root = encoder[0].parents[2]
    (root / "int8.yaml").write_text(WHOLLY_INT8)
    done = crosscast("build", root / "int8.yaml", "--out", root / "int8", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "int8/encoder/1.0.0"


def wide(file: ModelFile) -> Layer:
    """The layer LAYER of a transformer's file in int8."""
    if not isinstance(file, OnnxFile):
        return [each for each in file.layers if each.weight.read().size == 64 * 256][2]
    made = {name: node for node in file.graph.node for name in node.output}
    product, added = (
        next(n for n in file.graph.node if n.name.startswith(LAYER) and n.op_type == operator)
        for operator in ("MatMul", "Add")
    )
    weight, bias = made[product.input[1]].input, made[added.input[1]].input
    return Layer(
        weight=file._constant(weight[0]),
        bias=file._constant(bias[0]),
        scales=file._constant(weight[1]),
        inputs=0,
    )


def negated(layer: Layer) -> None:
    weight = layer.weight.read()
    layer.weight.write(-np.maximum(weight, -127))


@pytest.mark.parametrize("fault", [negated, swapped, rescaled])
@pytest.mark.parametrize("target", ["onnx-int8", "tflite-int8"])
def test_the_faulty_layer_of_a_transformer_in_int8_is_named(
    int8: Path, folder: Path, tmp_path: Path, target: str, fault: Callable[[Layer], None]
) -> None:
    file = opened(int8 / target)
    fault(wide(file))
    file.save(folder)
    found = explained(int8 / target, folder, int8 / "onnx", tmp_path)
    assert found.to_json()["layer"].startswith(LAYER), found.lines()


@pytest.mark.parametrize(("factor", "offset"), [(1 / 8, 0), (3, 0), (1, 90)])
def test_a_wrong_range_between_a_transformer_s_layers_is_named(
    int8: Path, folder: Path, tmp_path: Path, factor: float, offset: int
) -> None:
    """What QuantizeLinear writes is read back otherwise: too small, too large, from another 0."""
    file = OnnxFile(int8 / "onnx-int8")
    gelu = "gelu_1_DequantizeLinear_Output"
    (node,) = [node for node in file.graph.node if gelu in node.output]
    scale, point = (file._constant(name).read() for name in node.input[1:])
    wrong = {"scale": scale * np.float32(factor), "point": (point + offset).astype(point.dtype)}
    node.input[1:] = [file._add(f"wrong_{name}", array) for name, array in wrong.items()]
    file.save(folder)
    found = explained(int8 / "onnx-int8", folder, int8 / "onnx", tmp_path)
    assert found.to_json()["layer"] == "blocks.1/node_gelu_1", found.lines()


def test_a_build_that_fails_says_why(encoder: tuple[Path, str]) -> None:
    said = encoder[1]
    assert "the error has many sources; that with most effect is layer" in said
    assert "in the source: encoder.py:" in said


def test_an_artifact_is_explained_by_what_it_was_built_from(
    encoder: tuple[Path, str], folder: Path, cache: Path
) -> None:
    done = crosscast("explain", encoder[0] / "tflite-fp32", cache=cache)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    assert "in the artifact: " in done.stdout
    done = crosscast("explain", encoder[0] / "ort", cache=cache)
    assert done.returncode == 0, done.stderr
    assert "those of 'onnx', which it is made from, say:" in done.stdout
    shutil.copytree(encoder[0] / "tflite-fp32", folder, dirs_exist_ok=True)
    done = crosscast("explain", folder, cache=cache)
    assert (done.returncode, done.stdout) == (2, "")
    assert "it is not known here what it was built from" in done.stderr
    source = encoder[0].parents[2] / "encoder.py"
    source.write_text(ENCODER + "# changed\\n")
    done = crosscast("explain", encoder[0] / "tflite-fp32", cache=cache)
    source.write_text(ENCODER)
    assert done.returncode == 2
    assert "has changed since" in done.stderr


def test_errors_are_added_to_inputs_and_values(tmp_path: Path) -> None:
    """In a file that is quantized itself, whose weights are computed."""
    weights = onnx.numpy_helper.from_array(np.eye(2, dtype=np.int8), "w")
    step = onnx.numpy_helper.from_array(np.array(0.5, np.float32), "s")
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["dense"]),
            helper.make_node("MatMul", ["x", "dense"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 2])],
        [helper.make_tensor_value_info("y", 1, [1, 2])],
        [weights, step],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(
        helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "model.onnx"
    )
    pieces = Pieces(tmp_path, scratch=tmp_path)
    values = pieces.values()
    values["x"] = np.float32([[2, 4]])
    assert np.array_equal(dict(pieces.run(values))["y"], [[1, 2]])
    disturbed = pieces.disturbed(values, ["x", "y"])
    assert np.array_equal(disturbed({})["y"], [[1, 2]])
    assert np.array_equal(disturbed({"x": np.float32([[2, 0]])})["y"], [[2, 2]])
    assert np.array_equal(disturbed({"y": np.float32([[0, 9]])})["y"], [[1, 11]])
    both = {"x": np.float32([[2, 0]]), "y": np.float32([[0, 9]])}
    assert np.array_equal(disturbed(both)["y"], [[2, 11]])
