from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.digest import file_sha256
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import Case
from crosscast.pipeline.parity.vectors import Vector, write_vectors
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.stages import package, reference_to

SIGNATURE = Signature(
    inputs=(
        Tensor(
            name="image",
            shape=("batch", 3, 4, 5),
            dtype="float32",
            layout="nchw",
            range=(-1.0, 1.0),
        ),
        Tensor(name="scale", shape=("batch",), dtype="float32"),
    ),
    outputs=(
        Tensor(name="mask", shape=("batch", 2, 4, 5), dtype="float32", layout="nchw"),
        Tensor(name="label", shape=("batch",), dtype="int64"),
    ),
    dims={"batch": (1, 4)},
)
VERDICT = {
    "status": "passed",
    "reason": "",
    "precision": {"delivered": "fp32", "weights": {"float32": 20}},
    "outputs": [{"name": "mask", "snr_db": 120.5}],
    "quantization": {},
}
IMAGE = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
MASK = np.arange(80, dtype=np.float32).reshape(2, 2, 4, 5)

Pack = Callable[..., Path]


def usage(*, manifest: dict[str, Any]) -> str:
    return f"# {manifest['model']} has {manifest['files'][0]['path']}\n"


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    trees = {name: tmp_path / name for name in ("model", "reference", "verdict", "export")}
    for tree in trees.values():
        tree.mkdir()
    (trees["model"] / "model.onnx").write_bytes(b"the model")
    (trees["model"] / "aside").mkdir()
    (trees["model"] / "aside/weights.bin").write_bytes(b"weights")
    for name in ("notes.json", "signature.json"):
        manifests.write_json(trees["model"] / name, {"not": "shipped"})
    arrays = {"image": IMAGE, "scale": np.float32([1, 2])}
    case = Case(name="real 0", origin="real", arrays=arrays, dims={"batch": 2})
    outputs = {"mask": MASK, "label": np.int64([3, 4])}
    write_vectors(trees["reference"], [Vector(case=case, outputs=outputs)])
    manifests.write_json(trees["reference"] / "signature.json", SIGNATURE.to_json())
    manifests.write_json(trees["verdict"] / "verdict.json", VERDICT)
    manifests.write_json(trees["export"] / "notes.json", {"exporter": "torch.onnx", "opset": 18})
    net = tmp_path / "net.py"
    net.write_text("def build(): ...\n")
    return {**trees, "source.factory": net}


@pytest.fixture
def pack(tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Pack:
    """Package into a new directory."""
    monkeypatch.setattr(package, "function", lambda _: usage)

    def one(name: str = "out", **options: Any) -> Path:
        out = tmp_path / name
        out.mkdir()
        package.run(
            inputs=inputs,
            options={
                "usage": reference_to(usage),
                "model": "tiny",
                "version": "1.0.0",
                "target": "onnx",
                "format": "onnx",
                "layout": None,
                "io": None,
                "narrowed": {},
                "pixels": [],
                "labels": None,
                "metadata": {},
                "source": "torch",
                "allow_unverified": "",
                "preprocessing": {},
                "options": {"opset": 18},
                "tools": {"onnx": "1.2"},
                **options,
            },
            out=out,
        )
        return out

    return one


def names(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_an_artifact_holds_what_a_target_ships(pack: Pack) -> None:
    out = pack()
    assert names(out) == [
        "USAGE.md",
        "aside/weights.bin",
        "manifest.json",
        "model.onnx",
        "vectors.safetensors",
    ]
    assert (out / "model.onnx").read_bytes() == b"the model"
    assert (out / "USAGE.md").read_text() == "# tiny has model.onnx\n"


def test_classes_are_those_of_an_output(pack: Pack, inputs: dict[str, Path]) -> None:
    plain = manifests.read(pack())
    assert (plain["labels"], plain["metadata"]) == (None, {})
    with pytest.raises(StageError, match="`labels` names 1 classes, and no output has a score"):
        pack("refused", labels=["ant"])
    mask = replace(SIGNATURE.outputs[0], shape=("batch", 2), layout=None)
    signature = replace(SIGNATURE, outputs=(mask, SIGNATURE.outputs[1]))
    manifests.write_json(inputs["reference"] / "signature.json", signature.to_json())
    told = manifests.read(pack("named", labels=["ant", "bee"], metadata={"author": "Ada"}))
    assert told["labels"] == {"output": "mask", "names": ["ant", "bee"]}
    assert told["metadata"] == {"author": "Ada"}


def test_the_manifest_says_all(pack: Pack, inputs: dict[str, Path]) -> None:
    manifest = manifests.read(pack(allow_unverified="by hand"))
    assert {key: manifest[key] for key in ("model", "version", "target", "format")} == {
        "model": "tiny",
        "version": "1.0.0",
        "target": "onnx",
        "format": "onnx",
    }
    assert Signature.from_json(manifest) == SIGNATURE
    assert manifest["verdict"] == {key: VERDICT[key] for key in ("status", "reason", "outputs")}
    assert manifest["precision"] == VERDICT["precision"]
    assert manifest["allow_unverified"] == "by hand"
    assert manifest["export"] == {"exporter": "torch.onnx", "opset": 18}
    assert manifest["tools"] == {"onnx": "1.2"}
    assert manifest["source"] == {
        "kind": "torch",
        "files": {"factory": file_sha256(inputs["source.factory"])},
    }
    assert manifest["vectors"] == {
        "path": "vectors.safetensors",
        "cases": [{"name": "real 0", "origin": "real", "dims": {"batch": 2}}],
        "dtypes": {
            "inputs": {"image": "float32", "scale": "float32"},
            "outputs": {"mask": "float32", "label": "int64"},
        },
    }


def test_the_manifest_lists_the_files_main_one_first(pack: Pack) -> None:
    out = pack()
    manifest = manifests.read(out)
    assert [entry["path"] for entry in manifest["files"]] == [
        "model.onnx",
        "aside/weights.bin",
        "vectors.safetensors",
    ]
    manifests.check_files(out, manifest)


def test_without_a_layout_vectors_stay_as_they_are(pack: Pack) -> None:
    vectors = load_file(pack() / "vectors.safetensors")
    np.testing.assert_array_equal(vectors["0/in/image"], IMAGE)
    np.testing.assert_array_equal(vectors["0/out/mask"], MASK)


def test_vectors_and_manifest_are_in_the_artifacts_layout(pack: Pack) -> None:
    out = pack(layout="nhwc")
    manifest, vectors = manifests.read(out), load_file(out / "vectors.safetensors")
    assert manifest["inputs"][0]["shape"] == ["batch", 4, 5, 3]
    assert manifest["inputs"][0]["layout"] == manifest["outputs"][0]["layout"] == "nhwc"
    assert manifest["outputs"][1]["layout"] is None
    np.testing.assert_array_equal(vectors["0/in/image"], IMAGE.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(vectors["0/out/mask"], MASK.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(vectors["0/in/scale"], np.float32([1, 2]))
    np.testing.assert_array_equal(vectors["0/out/label"], np.int64([3, 4]))


def test_the_manifest_has_the_artifacts_dtypes(pack: Pack, inputs: dict[str, Path]) -> None:
    quantization = {"image": [0.5, 3], "scale": [0.25, 0], "mask": [1.0, -128]}
    verdict = {**VERDICT, "quantization": quantization}
    manifests.write_json(inputs["verdict"] / "verdict.json", verdict)
    out = pack(io="int8")
    manifest, vectors = manifests.read(out), load_file(out / "vectors.safetensors")
    assert manifest["io"] == "int8"
    assert [tensor["dtype"] for tensor in manifest["inputs"]] == ["int8", "int8"]
    assert [tensor["dtype"] for tensor in manifest["outputs"]] == ["int8", "int64"]
    assert manifest["inputs"][0]["quantization"] == [0.5, 3]
    assert manifest["outputs"][1]["quantization"] is None
    assert manifest["vectors"]["dtypes"]["inputs"]["image"] == "float32"
    np.testing.assert_array_equal(vectors["0/in/image"], IMAGE)


def test_a_tree_without_notes_is_fine(pack: Pack, inputs: dict[str, Path]) -> None:
    (inputs["export"] / "notes.json").unlink()
    assert manifests.read(pack())["export"] == {}


def test_a_source_may_be_a_directory(pack: Pack, inputs: dict[str, Path]) -> None:
    inputs["source.folder"] = inputs["model"]
    before = manifests.read(pack("before"))["source"]["files"]
    (inputs["model"] / "aside/weights.bin").write_bytes(b"other weights")
    after = manifests.read(pack("after"))["source"]["files"]
    assert before["folder"] != after["folder"]
    assert before["factory"] == after["factory"]


@pytest.mark.parametrize("layout", [None, "nhwc"])
def test_equal_inputs_give_equal_bytes(
    pack: Pack, inputs: dict[str, Path], tmp_path: Path, layout: str | None
) -> None:
    first = pack("first", layout=layout)
    moved = tmp_path / "moved"
    shutil.copytree(inputs["model"], moved)
    inputs["model"] = moved
    second = pack("second", layout=layout)
    assert [(first / name).read_bytes() for name in names(first)] == [
        (second / name).read_bytes() for name in names(second)
    ]
    text = (first / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
