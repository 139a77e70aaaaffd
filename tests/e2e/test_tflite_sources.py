"""TFLite files as sources: those that targets here make, copied and turned into ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import crosscast

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import example
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources import tflite as source
from crosscast.targets.families import tflite_runtime

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
onnx = pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert.interpreter")
helper = onnx.helper

IMAGE = "inputs:\n  image: {shape: [batch, 3, 16, 16], dtype: float32, range: [-1, 1]}\n"
SAMPLES = "samples: {calibration: synthetic}\n"


def net(path: Path) -> None:
    """A convolution, a pooling and a classifier."""
    random = np.random.default_rng(0)
    weights = {
        "k": random.normal(size=(8, 3, 3, 3)).astype(np.float32) / 5,
        "b": random.normal(size=8).astype(np.float32),
        "w": random.normal(size=(8, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("image", 1, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", 1, ["batch", 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


def build(config: Path, text: str, cache: Path) -> Any:
    config.write_text(f"model: m\nversion: 1.0.0\n{text}")
    return crosscast("build", config, "--out", config.parent / config.stem, cache=cache)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Artifacts of three precisions."""
    root = tmp_path_factory.mktemp("made")
    net(root / "net.onnx")
    targets = "targets: {tflite-fp32: {}, tflite-fp16: {}, tflite-int8: {}}\n"
    done = build(
        root / "first.yaml", f"source: {{onnx: net.onnx}}\n{IMAGE}{SAMPLES}{targets}", cache
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "first/m/1.0.0"


def verdicts(root: Path) -> dict[str, str]:
    return {
        path.parent.name: json.loads(path.read_text())["verdict"]["status"]
        for path in sorted(root.glob("m/1.0.0/*/manifest.json"))
    }


def test_a_float_file_becomes_every_other(made: Path, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    text = (
        f"source: {{tflite: {made / 'tflite-fp32/model.tflite'}}}\n{IMAGE}{SAMPLES}"
        "targets: {tflite-fp32: {}, tflite-fp16: {}, tflite-int8: {}, onnx: {}, onnx-int8: {}}\n"
    )
    done = build(tmp_path / "c.yaml", text, cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(verdicts(tmp_path / "c").values()) == {"passed"}
    assert len(verdicts(tmp_path / "c")) == 5


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_smaller_file_ships_as_it_is(
    precision: str, made: Path, cache: Path, tmp_path: Path
) -> None:
    text = (
        f"source: {{tflite: {made / f'tflite-{precision}/model.tflite'}}}\n{IMAGE}{SAMPLES}"
        f"targets: {{tflite-fp32: {{}}, tflite-{precision}: {{}}}}\n"
    )
    done = build(tmp_path / "c.yaml", text, cache)
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"fp32 was asked for, {precision} was delivered" in done.stdout
    assert verdicts(tmp_path / "c") == {f"tflite-{precision}": "passed"}


def options(path: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "tflite", "model": str(path), "signature": None, **more}


def test_the_copy_answers_as_the_file_with_names_of_ours(made: Path, tmp_path: Path) -> None:
    given = options(made / "tflite-fp32/model.tflite")
    declared = Signature(
        inputs=(Tensor(name="image", shape=("batch", 3, 16, 16), dtype="float32"),),
        dims={"batch": (1, 3)},
    )
    found = source.signature(source=given, declared=declared)
    reference = source.load(source=given, signature=found, outputs=["logits"])
    source.export(
        to="tflite", source=given, signature=found, outputs=["logits"], opset=None, layout=None,
        program=None, out=tmp_path,
    )  # fmt: skip
    session = tflite_runtime.open(artifact=tmp_path)
    assert [tensor.name for tensor in (*session.inputs, *session.outputs)] == ["image", "logits"]
    inputs = example(found)
    np.testing.assert_array_equal(session.run(inputs)["logits"], reference.run(inputs)["logits"])


def test_sizes_that_the_file_does_not_take_are_told(made: Path) -> None:
    given = options(made / "tflite-fp32/model.tflite")
    found = source.signature(source=given, declared=Signature(inputs=()))
    reference = source.load(source=given, signature=found, outputs=None)
    with pytest.raises(StageError, match=r"the model refuses inputs image\[1,3,9,9\]"):
        reference.run({"image": np.zeros((1, 3, 9, 9), np.float32)})


def test_an_operator_that_tf2onnx_lacks_is_named(made: Path, tmp_path: Path) -> None:
    """tf2onnx has no rule for GELU."""
    pytest.importorskip("tf2onnx")
    from crosscast.targets.families import tflite_file as files

    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = files.read(made / "tflite-fp32/model.tflite")
    graph = model.subgraphs[0]
    editor, last = files.Editor(model, graph), int(graph.outputs[0])
    shape = files.signature_of(graph.tensors[last])
    output = editor.tensor("gelu", files.tensor_type("float32"), shape)
    operator = editor.operator("GELU", [last], output)
    operator.builtinOptionsType = schema.BuiltinOptions.GeluOptions
    operator.builtinOptions = schema.GeluOptionsT()
    graph.operators.append(operator)
    graph.outputs, model.signatureDefs = [output], []
    files.write(model, tmp_path / "gelu.tflite")
    given = options(tmp_path / "gelu.tflite")
    found = source.signature(source=given, declared=Signature(inputs=()))
    (tmp_path / "out").mkdir()
    with pytest.raises(StageError, match="no equivalent in ONNX that tf2onnx knows: operator GELU"):
        source.export(
            to="onnx", source=given, signature=found, outputs=None, opset=None, layout=None,
            program=None, out=tmp_path / "out",
        )  # fmt: skip
