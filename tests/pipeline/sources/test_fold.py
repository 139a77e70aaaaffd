"""Folded sources: the reference and the graph compute what the preprocessing says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from crosscast.pipeline import sources
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.preprocess import Preprocessing, values
from crosscast.pipeline.signature import Arrays, Layout, Signature, Tensor
from crosscast.pipeline.sources import Source, open_source
from crosscast.pipeline.sources.fold import Folded
from crosscast.pipeline.toolchain import CORE
from crosscast.targets.families import onnx as trees

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = {
    "plain": Preprocessing(),
    "scale": Preprocessing(scale=1 / 255),
    "one mean": Preprocessing(scale=1 / 255, mean=(0.5,), std=(0.5,)),
    "a mean a channel": Preprocessing(scale=1 / 255, mean=MEAN, std=STD),
    "bgr": Preprocessing(color="bgr", mean=(103.9, 116.8, 123.7)),
    "std alone": Preprocessing(std=(127.5,)),
}


def tensor(layout: Layout, dtype: str = "float32", channels: int = 3) -> Tensor:
    sides = (channels, 4, 5) if layout == "nchw" else (4, 5, channels)
    return Tensor(
        name="image", shape=("batch", *sides), dtype=dtype, layout=layout, range=(-9.0, 9.0)
    )


def doubled(made: Tensor) -> onnx.ModelProto:
    """A model that doubles its image, as an exporter would write it."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(made.dtype))
    ports = [helper.make_tensor_value_info(name, kind, made.shape) for name in ("image", "y")]
    node = helper.make_node("Add", ["image", "image"], ["y"], name="double")
    graph = helper.make_graph([node], "g", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


class Session:
    def __init__(self, signature: Signature) -> None:
        self.inputs = signature.inputs
        self.outputs = (Tensor(name="y", shape=(1,), dtype="float32", layout="nchw"),)

    def run(self, inputs: Arrays) -> Arrays:
        assert inputs["image"].dtype == self.inputs[0].dtype
        return {"y": inputs["image"] * 2}


def export(*, signature: Signature, layout: Any, out: Path, **_: Any) -> dict[str, Any]:
    assert layout is None
    outputs = (Tensor(name="y", shape=signature.inputs[0].shape, dtype="float32", layout="nchw"),)
    trees.save(doubled(signature.inputs[0]), out)
    whole = Signature(inputs=signature.inputs, outputs=outputs, dims=signature.dims)
    (out / "signature.json").write_text(json.dumps(whole.to_json()))
    (out / "notes.json").write_text('{"exporter": "fake"}')
    return {"exporter": "fake"}


Opened = Callable[..., tuple[Source, dict[str, Any], Signature]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """The folded source, its options and its signature."""
    module: Any = ModuleType("fake_source")
    module.toolchain, module.kinds = CORE, ("exported_program", "onnx")
    module.signature = lambda declared, **_: declared
    module.load = lambda signature, **_: Session(signature)
    module.export = export
    module.files = lambda options: {"keys": Path(*options)}
    module.dependencies = lambda: ("net.py",)
    monkeypatch.setitem(sys.modules, "fake_source", module)
    monkeypatch.setitem(sources.SOURCES, "fake", "fake_source")  # type: ignore[arg-type]

    def one(steps: Preprocessing, made: Tensor) -> tuple[Source, dict[str, Any], Signature]:
        options = {"kind": "fake", "fold": {"image": Folded.of(made, steps).to_json()}}
        options = json.loads(json.dumps(options))
        source = open_source(options)
        declared = Signature(inputs=(made,), dims={"batch": (1, 4)})
        return source, options, source.signature(source=options, declared=declared)

    return one


def test_without_a_fold_the_source_is_the_module(opened: Opened) -> None:
    assert open_source({"kind": "fake"}) is sys.modules["fake_source"]  # type: ignore[comparison-overlap]


def test_a_folded_source_takes_pixels(opened: Opened) -> None:
    source, options, signature = opened(STEPS["scale"], tensor("nchw"))
    assert signature.inputs == (
        Tensor(
            name="image", shape=("batch", 4, 5, 3), dtype="uint8", layout="nhwc", range=(0.0, 255.0)
        ),
    )
    assert source.kinds == ("onnx",)
    assert source.toolchain is CORE
    assert source.dependencies() == ("net.py",)
    assert source.files(options) == {"keys": Path("kind")}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_reference_and_the_graph_compute_the_preprocessing(
    opened: Opened, steps: Preprocessing, layout: Layout, tmp_path: Path
) -> None:
    source, options, signature = opened(steps, tensor(layout))
    expected = 2 * values(PIXELS, steps, "float32")
    if layout == "nchw":
        expected = expected.transpose(0, 3, 1, 2)
    session = source.load(source=options, signature=signature, outputs=None)
    assert session.inputs == signature.inputs
    assert np.array_equal(session.run({"image": PIXELS})["y"], expected)
    notes = exported(source, options, signature, tmp_path)
    assert notes == {"exporter": "fake", "folded": ["image"]}
    assert json.loads((tmp_path / "notes.json").read_text()) == notes
    model = onnx.load(tmp_path / "model.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    (found,) = ReferenceEvaluator(model).run(None, {"image": PIXELS})
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def exported(
    source: Source, options: dict[str, Any], signature: Signature, out: Path, layout: Any = None
) -> dict[str, Any]:
    return source.export(
        to="onnx",
        source=options,
        signature=signature,
        outputs=None,
        opset=18,
        layout=layout,
        program=None,
        out=out,
    )


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int32"])
def test_pixels_are_brought_to_the_inputs_dtype(opened: Opened, dtype: str, tmp_path: Path) -> None:
    steps = STEPS["one mean"] if dtype.startswith("float") else STEPS["plain"]
    source, options, signature = opened(steps, tensor("nchw", dtype))
    session = source.load(source=options, signature=signature, outputs=None)
    expected = session.run({"image": PIXELS})["y"]
    exported(source, options, signature, tmp_path)
    (found,) = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx")).run(None, {"image": PIXELS})
    assert found.dtype == expected.dtype == np.dtype(dtype)
    loose = 2e-3 if dtype == "float16" else 1e-6
    np.testing.assert_allclose(found, expected, rtol=loose, atol=loose)


def test_gray_has_one_channel(opened: Opened) -> None:
    made = tensor("nchw", channels=1)
    source, options, signature = opened(Preprocessing(color="gray", scale=0.5), made)
    assert signature.inputs[0].shape == ("batch", 4, 5, 1)
    found = source.load(source=options, signature=signature, outputs=None).run(
        {"image": PIXELS[..., :1]}
    )
    assert np.array_equal(found["y"], PIXELS[..., :1].transpose(0, 3, 1, 2).astype(np.float32))


def test_another_layout_is_that_of_every_image(opened: Opened, tmp_path: Path) -> None:
    source, options, signature = opened(STEPS["plain"], tensor("nchw"))
    exported(source, options, signature, tmp_path, layout="nhwc")
    told = Signature.from_json(json.loads((tmp_path / "signature.json").read_text()))
    assert [one.shape for one in (*told.inputs, *told.outputs)] == [("batch", 4, 5, 3)] * 2
    (found,) = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx")).run(None, {"image": PIXELS})
    assert np.array_equal(found, 2.0 * PIXELS)


def test_other_kinds_are_refused(opened: Opened, tmp_path: Path) -> None:
    source, options, signature = opened(STEPS["plain"], tensor("nchw"))
    with pytest.raises(StageError, match="cannot be exported as saved_model"):
        source.export(
            to="saved_model",
            source=options,
            signature=signature,
            outputs=None,
            opset=None,
            layout=None,
            program=None,
            out=tmp_path,
        )
