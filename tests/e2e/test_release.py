"""A real model from its first release to its rollback, by commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from cli import crosscast

from crosscast.pipeline.release import signing
from crosscast.pipeline.release.latency import Timing, measure
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store

pytestmark = pytest.mark.e2e

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = """
model: net
version: 1.0.0
source: {onnx: net.onnx}
inputs: {x: {shape: [batch, 64], dtype: float32, range: [-1, 1], batch: [1, 4]}}
targets: {onnx: {}}
"""


class Project:
    """A network whose size and depth can be changed, and the commands over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "net.yaml").write_text(CONFIG)
        self.grow(layers=8)

    def grow(self, *, layers: int, output: str = "y") -> None:
        """Write the network: products with one matrix, again and again."""
        import numpy as np
        import onnx

        random = np.random.default_rng(0)
        weights = random.standard_normal((64, 64)).astype("float32") / 8
        names = ["x", *(f"h{index}" for index in range(layers - 1)), output]
        nodes = [
            onnx.helper.make_node("Tanh" if index % 2 else "MatMul", inputs, [after])
            for index, (before, after) in enumerate(pairwise(names))
            for inputs in [[before] if index % 2 else [before, "w"]]
        ]
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes,
            "net",
            [value("x", onnx.TensorProto.FLOAT, ["batch", 64])],
            [value(output, onnx.TensorProto.FLOAT, ["batch", 64])],
            [onnx.numpy_helper.from_array(weights, "w")],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
        model.ir_version = 10
        onnx.save(model, self.root / "net.onnx")

    def run(self, *words: str | Path, code: int = 0) -> CompletedProcess[str]:
        done = crosscast(*words, cache=self.root / "cache")
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def release(self, *words: str | Path, code: int = 0) -> CompletedProcess[str]:
        return self.run(
            *("release", self.root / "net.yaml", "-o", self.root / "artifacts"), *words, code=code
        )

    @property
    def net(self) -> str:
        return str(self.root / "artifacts/net")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = tmp_path_factory.mktemp("project")
    yield Project(root)
    shutil.rmtree(root)


def test_a_model_from_its_first_release_to_its_rollback(project: Project) -> None:
    project.run("keygen", "-o", project.root / "keys")
    keys = project.root / "keys"
    first = project.release("--key", keys / signing.PRIVATE, "--check-reproducible")
    assert "net 1.0.0 is published in" in first.stdout
    folder = project.root / "artifacts/net/1.0.0"
    document = (folder / "release.json").read_bytes()
    key = signing.read_public(keys / signing.PUBLIC)
    said = signing.verify(document, (folder / "release.dsse.json").read_bytes(), key)
    assert said["predicate"]["runDetails"]["byproducts"][0]["annotations"]["status"] == "passed"

    assert "already, the same: nothing to publish" in project.release().stdout
    assert "nothing has changed since net 1.0.0" in project.release("--bump", "patch").stdout

    project.grow(layers=10)
    refused = project.release(code=5)
    assert "net 1.0.0 is published in" in refused.stderr
    assert "onnx/model.onnx" in refused.stderr
    assert "source model" in refused.stderr
    assert (folder / "release.json").read_bytes() == document

    second = project.release("--bump", "minor", "--dry-run")
    assert "onnx  size" in second.stdout
    (project.root / "net.yaml").write_text(
        CONFIG + "release: {channel: beta, gates: {max_latency_growth: 2000%}}\n"
    )
    assert "net 1.1.0 is published" in project.release("--bump", "minor").stdout

    shown = project.run("diff", f"{project.net}@1.0.0", f"{project.net}@beta", "--json")
    numbers = {entry["quantity"]: entry for entry in json.loads(shown.stdout)["numbers"]}
    assert {"size", "latency", "snr"} <= numbers.keys()

    for version in ("1.0.0", "beta"):
        project.run("promote", f"{project.net}@{version}", "stable")
    assert (
        "stable is 1.0.0 (before: 1.1.0)" in project.run("rollback", project.net, "stable").stdout
    )
    listed = project.run("releases", project.net).stdout.splitlines()
    assert listed[:2] == ["1.1.0  beta", "1.0.0  stable"]
    assert project.run("rollback", project.net, "stable", code=2).stderr.startswith("error: ")

    project.grow(layers=10, output="z")
    renamed = project.release("--bump", "minor", code=5)
    assert "outputs were y, now z: asks for a major version, 1.1.0 -> 1.2.0 is less" in (
        renamed.stderr
    )
    assert "net 2.0.0 is published" in project.release("--bump", "major").stdout


def test_a_slower_model_is_refused_and_an_equal_one_is_not(project: Project) -> None:
    artifacts = {}
    for layers in (20, 60):
        project.grow(layers=layers)
        out = project.root / f"built{layers}"
        project.run("build", project.root / "net.yaml", "-o", out)
        artifacts[layers] = out / "net/1.0.0/onnx"

    def timed(before: int, after: int) -> Timing:
        pair = (artifacts[before], artifacts[after])
        store, settings = Store(project.root / "cache"), Settings(artifacts=project.root)
        return measure({"onnx": pair}, store=store, settings=settings)["onnx"]

    assert timed(20, 60).low > 1.1
    assert timed(60, 20).high < 1
    assert timed(20, 20).low < 1.1
