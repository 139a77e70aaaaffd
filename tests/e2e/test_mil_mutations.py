"""Core ML packages that compute something else than their source fail the gate, off the Mac.

A converted network is corrupted in its package, as it lies on disk, and held against torch.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from verdicts import asked_of

from crosscast.pipeline.parity.sweep import parity_cases
from crosscast.pipeline.parity.vectors import Vector
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.stages import reference_to
from crosscast.pipeline.stages.verify import verify
from crosscast.targets import coreml_fp16 as target
from crosscast.targets.families import coreml

pytestmark = [
    pytest.mark.e2e,
    # torch warns of its own deprecated use of itself when it loads and decomposes programs.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")
nn = torch.nn

SIGNATURE = Signature(
    inputs=(Tensor(name="x", shape=("batch", 3, 16, 16), dtype="float32", range=(-1.0, 1.0)),),
    outputs=(Tensor(name="y", shape=("batch", 8, 8, 8), dtype="float32"),),
    dims={"batch": (1, 4)},
)


class Net(nn.Module):  # type: ignore[misc,name-defined]
    """A convolution, a normalization with an epsilon that counts, attention over places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(8, eps=0.1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Any) -> Any:
        h = self.norm(torch.relu(self.first(x)).movedim(1, -1)).movedim(-1, 1)
        return self.second(h) * torch.softmax(h, 1)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Vector]]:
    """The converted network, and what torch gives."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("net")
    tree, out = root / "program", root / "out"
    tree.mkdir()
    out.mkdir()
    net = Net().eval()
    dims = ({0: torch.export.Dim("batch", min=1, max=4)},)
    program = torch.export.export(net, (torch.rand(2, 3, 16, 16),), dynamic_shapes=dims)
    torch.export.save(program, tree / "model.pt2")
    (tree / "signature.json").write_text(json.dumps(SIGNATURE.to_json()))
    target.convert(model=tree, options={"compute": "float16", "on_mismatch": "fail"}, out=out)
    vectors = []
    for case in parity_cases([], signature=SIGNATURE):
        with torch.no_grad():
            outputs = {"y": net(torch.from_numpy(case.arrays["x"])).numpy()}
        vectors.append(Vector(case=case, outputs=outputs))
    return out, vectors


def judged(artifact: Path, vectors: list[Vector]) -> Verdict:
    """The verdict of the evaluator, on every host."""
    return verify(
        artifact=artifact,
        signature=SIGNATURE,
        vectors=lambda: iter(vectors),
        options=asked_of(target, open=reference_to(coreml.evaluated), no_runtime=""),
    )


class Package:
    """A package to be changed where it lies."""

    def __init__(self, root: Path) -> None:
        self.path = root / coreml.MODEL / coreml.SPEC
        self.weights = self.path.parent / "weights" / "weight.bin"
        self.spec = coreml.spec_of(root)
        main = self.spec.mlProgram.functions["main"]
        self.operations = list(main.block_specializations[main.opset].operations)

    def constant(self, kind: str, parameter: str, place: int = 0) -> Any:
        """The value of a parameter of one of the operators of a kind."""
        found = [operation for operation in self.operations if operation.type == kind][place]
        name = found.inputs[parameter].arguments[0].name
        given = next(it for it in self.operations if it.outputs[0].name == name)
        return given.attributes["val"]

    def change_weight(self, kind: str, place: int, change: Callable[[Any], Any]) -> None:
        value = self.constant(kind, "weight", place)
        content = bytearray(self.weights.read_bytes())
        size, start = struct.unpack_from("<QQ", content, value.blobFileValue.offset + 8)
        shape = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
        array = np.frombuffer(bytes(content[start : start + size]), np.float16).reshape(shape)
        content[start : start + size] = change(array.copy()).astype(np.float16).tobytes()
        self.weights.write_bytes(bytes(content))

    def save(self) -> None:
        self.path.write_bytes(self.spec.SerializeToString())


def flip(array: Any) -> Any:
    place = np.unravel_index(np.abs(array).argmax(), array.shape)
    array[place] = -array[place]
    return array


def swap(array: Any) -> Any:
    return array[[1, 0, *range(2, len(array))]]


def epsilon(package: Package) -> None:
    value = package.constant("layer_norm", "epsilon").immediateValue.tensor
    assert np.frombuffer(value.bytes.values, np.float16)[0] == np.float16(0.1)
    value.bytes.values = np.float16(1e-5).tobytes()


def axis(package: Package) -> None:
    value = package.constant("softmax", "axis").immediateValue.tensor
    assert list(value.ints.values) == [1]
    value.ints.values[:] = [2]


def padding(package: Package) -> None:
    value = package.constant("conv", "pad").immediateValue.tensor
    value.ints.values[:] = [0, 2, 0, 2]


CORRUPTIONS: dict[str, Callable[[Package], None]] = {
    "the sign of one weight": lambda it: it.change_weight("conv", 0, flip),
    "the sign of one weight of the last layer": lambda it: it.change_weight("conv", 1, flip),
    "channels swapped": lambda it: it.change_weight("conv", 0, swap),
    "channels of the last layer swapped": lambda it: it.change_weight("conv", 1, swap),
    "a weight that is no number": lambda it: it.change_weight("conv", 1, lambda a: a * np.nan),
    "another epsilon": epsilon,
    "another axis": axis,
    "another padding": padding,
}


@pytest.fixture
def folder(honest: tuple[Path, list[Vector]], tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "artifact"
    shutil.copytree(honest[0], made)
    yield made
    shutil.rmtree(made)


def test_an_honest_package_passes(honest: tuple[Path, list[Vector]]) -> None:
    found = judged(*honest)
    assert found.status == "passed", found.reason
    assert found.reason.endswith(
        "; computed by the reference evaluator of the saved program, not by Apple's runtime"
    )


def test_a_package_that_was_only_written_again_passes(
    honest: tuple[Path, list[Vector]], folder: Path
) -> None:
    Package(folder).save()
    assert judged(folder, honest[1]).status == "passed"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_package_that_computes_something_else_fails(
    honest: tuple[Path, list[Vector]], folder: Path, name: str
) -> None:
    package = Package(folder)
    CORRUPTIONS[name](package)
    package.save()
    found = judged(folder, honest[1])
    assert found.status == "failed"
    assert "output 'y', case '" in found.reason, found.reason


def test_an_operator_that_the_evaluator_lacks_is_unverified(
    honest: tuple[Path, list[Vector]], folder: Path
) -> None:
    package = Package(folder)
    next(it for it in package.operations if it.type == "softmax").type = "fft"
    package.save()
    found = judged(folder, honest[1])
    assert (found.status, found.reason) == ("unverified", "evaluator has no fft")


def test_weights_that_are_missing_fail(honest: tuple[Path, list[Vector]], folder: Path) -> None:
    Package(folder).weights.unlink()
    found = judged(folder, honest[1])
    assert found.status == "failed"
    assert "the package has no weights/weight.bin" in found.reason
