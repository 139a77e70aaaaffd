"""`init` for every kind of model, and what it writes is built as it is."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import crosscast

from crosscast.pipeline.config.load import load
from crosscast.pipeline.init.onnx_trace import Graph, compared, is_bytes, operators, table

pytestmark = pytest.mark.e2e

NETS = Path(__file__).with_name("nets.py")

FILES = """
import sys
import torch
from nets import CNN, made


class Texts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(50, 8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.words(ids).mean(1))


torch.jit.trace(made(CNN), torch.rand(1, 3, 16, 16)).save("traced.pt")
torch.jit.script(made(Texts)).save("scripted.pt")
sizes = {0: torch.export.Dim("rows", max=8), 1: torch.export.Dim("length", min=3, max=200)}
ids = torch.zeros(2, 5, dtype=torch.int64)
torch.export.save(torch.export.export(made(Texts), (ids,), dynamic_shapes=(sizes,)), "texts.pt2")
torch.save(made(CNN).state_dict(), "weights.pt")
"""
SKLEARN = """
import joblib
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier


def forest():
    return RandomForestClassifier(5, random_state=0).fit(*load_iris(return_X_y=True))


if __name__ == "__main__":
    joblib.dump(forest(), "forest.joblib")
"""
KERAS = """
import keras


def image():
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(2)(x))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, overlays: Path) -> Path:
    folder = tmp_path_factory.mktemp("init")
    (folder / "cache").mkdir()
    (folder / "cache/overlays").symlink_to(overlays)
    for name, code in (("make.py", FILES), ("trees.py", SKLEARN), ("layers.py", KERAS)):
        (folder / name).write_text(code)
    (folder / "nets.py").write_text(NETS.read_text())
    onnx_model(folder / "rate.onnx")
    for script in ("make.py", "trees.py"):
        subprocess.run([sys.executable, "-W", "ignore", script], cwd=folder, check=True)
    return folder


def onnx_model(path: Path) -> Any:
    """tokens -> rows of a table, doubled where `rate` is 16000."""
    from onnx import TensorProto, helper, numpy_helper, save

    def branch(factor: float) -> Any:
        value = helper.make_tensor("v", TensorProto.FLOAT, (), [factor])
        node = helper.make_node("Constant", [], ["out"], value=value)
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ())
        return helper.make_graph([node], "branch", [], [out])

    nodes = [
        helper.make_node("Unsqueeze", ["rate", "zero"], ["rates"]),
        helper.make_node("Gather", ["rates", "first"], ["one"]),
        helper.make_node("Equal", ["one", "wide"], ["is_wide"]),
        helper.make_node(
            "If", ["is_wide"], ["factor"], then_branch=branch(2), else_branch=branch(1)
        ),
        helper.make_node("Cast", ["tokens"], ["wide_tokens"], to=TensorProto.INT64),
        helper.make_node("Gather", ["words", "wide_tokens"], ["found"]),
        helper.make_node("MatMul", ["found", "layer"], ["projected"]),
        helper.make_node("Mul", ["projected", "factor"], ["y"]),
    ]
    random = np.random.default_rng(0)
    weights = {
        "zero": np.array([0]),
        "first": np.array(0),
        "wide": np.array(16000),
        "words": random.normal(size=(40, 8)).astype("f4"),
        "layer": random.normal(size=(8, 4)).astype("f4"),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT32, ["N", "?"]),
            helper.make_tensor_value_info("rate", TensorProto.INT64, ()),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, path)
    return model


def init(project: Path, name: str, *more: str) -> Any:
    """The config that `init` writes for a model of the project."""
    out = project / f"{Path(name).name.replace(':', '-')}.yaml"
    done = run(project, "init", name, "-o", out.name, "--force", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"next: crosscast build {out.name}" in done.stdout
    return load(out)


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    import contextlib

    with contextlib.chdir(project):
        return crosscast(*words, cache=project / "cache")


def build(project: Path, config: Any) -> None:
    done = run(project, "build", config.path.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_torch_net_for_all_default_targets(project: Path) -> None:
    config = init(project, "nets.py:cnn")
    assert list(config.targets) == ["onnx", "onnx-int8", "tflite-fp32", "tflite-int8"]
    assert config.inputs["image"].shape == ["batch", 3, 224, 224]
    build(project, config)


def test_an_onnx_file_with_a_branch_to_freeze(project: Path) -> None:
    config = init(project, "rate.onnx", "-t", "onnx", "-t", "tflite-fp32")
    assert config.source.to_source()["freeze"] == {"rate": 16000}
    assert list(config.inputs) == ["tokens"]
    assert config.inputs["tokens"].range == (0, 39)
    build(project, config)


@pytest.mark.parametrize(
    ("name", "more", "shape", "bounds", "builds"),
    [
        ("traced.pt", (), ["batch", 3, 16, 16], (0, 1), False),
        ("scripted.pt", (), ["batch", "sequence"], (0, 49), False),
        ("texts.pt2", (), ["batch", "sequence"], (0, 49), True),
        ("nets.py:swapped_keywords", (), ["batch", "sequence"], (0, 1), False),
        ("nets.py:attention", (), ["sequence", "batch", 4], (-1, 1), False),
        ("forest.joblib", ("--trusted",), ["batch", 4], None, False),
        ("trees.py:forest", (), ["batch", 4], None, True),
        ("layers.py:image", (), ["batch", "height", "width", 3], (0, 255), True),
    ],
)
def test_other_kinds(
    name: str, more: tuple[str, ...], shape: list[Any], bounds: Any, builds: bool, project: Path
) -> None:
    config = init(project, name, "-t", "onnx", *more)
    first = next(iter(config.inputs.values()))
    assert first.shape == shape
    assert first.range == bounds or bounds is None
    if builds:
        build(project, config)


def test_recurrent_layers_for_tflite(project: Path) -> None:
    config = init(project, "nets.py:lstm", "-t", "onnx", "-t", "tflite-fp32")
    assert config.inputs["x"].shape == [1, 16, 4]


def test_a_url(project: Path) -> None:
    digest = hashlib.sha256((project / "rate.onnx").read_bytes()).hexdigest()
    config = init(project, f"file://{project}/rate.onnx", "--sha256", digest, "-t", "onnx")
    assert config.source.downloads()[0].sha256 == digest


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("weights.pt",), 1, "give 'file.py:function'"),
        (("forest.joblib",), 1, "add --trusted"),
        (("trees.py:forest", "-t", "tflite-fp32"), 2, "target 'tflite-fp32' cannot take this"),
        (("nets.py:gives_none",), 1, "end the factory with `return model`"),
        (("nets.py:returns_nothing",), 1, "declare them in a config of your own"),
        (("nets.py:nothing",), 1, "no function 'nothing'"),
    ],
)
def test_what_cannot_be(
    words: tuple[str, ...], code: int, said: str, project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.yaml"
    done = run(project, "init", *words, "-o", str(out))
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_what_a_graph_shows(tmp_path: Path) -> None:
    graph = Graph(onnx_model(tmp_path / "m.onnx"))
    assert table(graph, "tokens") == 40
    assert table(graph, "rate") == 0
    assert compared(graph, "rate") == [16000]
    assert not is_bytes(graph, "tokens")
    found = operators(graph)
    assert (found["MatMul"], found["If"], "Attention" in found) == (1, 1, False)
