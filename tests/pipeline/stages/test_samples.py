from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosscast.pipeline import sources
from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.samples import read_cases
from crosscast.pipeline.preprocess import Preprocessing
from crosscast.pipeline.signature import Signature, Tensor
from crosscast.pipeline.sources.fold import Folded
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.stages.samples import run
from crosscast.pipeline.toolchain import CORE

SIGNATURE = Signature(
    inputs=(Tensor(name="x", shape=("batch", 3), dtype="float32"),), dims={"batch": (1, 4)}
)


@pytest.fixture(autouse=True)
def fake_source(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fake_source")
    module.signature = lambda declared, **_: declared if declared.inputs else SIGNATURE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_source", module)
    monkeypatch.setitem(sources.SOURCES, "fake", "fake_source")  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def stage(
    out: Path,
    samples: str | None,
    purpose: str = "parity",
    *,
    npz: Path | None = None,
    declared: Signature = SIGNATURE,
    layout: str | None = None,
) -> StageResult:
    options: dict[str, Any] = {
        "source": {"kind": "fake"},
        "signature": declared.to_json(),
        "samples": samples,
        "purpose": purpose,
        "layout": layout,
    }
    inputs = {} if npz is None else {"samples": npz}
    return run(inputs=inputs, options=options, out=out)


def user_file(tmp_path: Path, body: str) -> str:
    path = tmp_path / "user.py"
    path.write_text(f"import numpy as np\n{body}\n")
    return f"{path}:samples"


def origins(tree: Path) -> list[str]:
    return [case.origin for case in read_cases(tree)]


TWO = """
def samples():
    for value in (0.1, 0.2):
        yield {"x": np.full((1, 3), value)}
"""


def test_a_function_gives_real_cases(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = stage(out, user_file(tmp_path, TWO))
    assert origins(out) == ["real"] * 2 + ["swept"] * 2 + ["adversarial"] * 5
    assert str(tmp_path / "user.py") in result.dependencies
    assert result.notes["cases"] == {"real": 2, "swept": 2, "adversarial": 5}


def test_calibration_takes_real_cases_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = stage(out, user_file(tmp_path, TWO), "calibration")
    assert origins(out) == ["real"] * 2
    assert result.notes["assumed"] == []


def test_a_list_of_bare_arrays_will_do(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage(out, user_file(tmp_path, "samples = lambda: [np.zeros((2, 3), np.float32)]"))
    assert origins(out)[:3] == ["real", "swept", "swept"]


def test_without_samples_inputs_are_synthetic_and_the_notes_say_from_what(tmp_path: Path) -> None:
    result = stage(tmp_path / "out", None)
    assert set(origins(tmp_path / "out")) == {"synthetic", "adversarial"}
    assert result.notes["assumed"] == [
        "input 'x' declares no range: values in [-1, 1] were assumed"
    ]


def test_an_npz_gives_real_cases(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros((5, 3), np.float32))
    stage(tmp_path / "out", "s.npz", "calibration", npz=tmp_path / "s.npz")
    assert origins(tmp_path / "out") == ["real"] * 5


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def samples(): return []", "gives no sample"),
        ("def samples(): return None", "gives a NoneType, not several samples"),
        ("def samples(): return {'x': np.zeros((1, 3))}", "gives a dict, not several samples"),
        ("def samples():\n    yield np.zeros((1, 3))\n    raise KeyError('cat.jpg')", "cat.jpg"),
        ("def samples(): raise ValueError('broken')", "broken"),
        ("def samples():\n    import sys\n    sys.exit(0)\n    yield", "sys.exit"),
        ("def samples(): yield np.zeros((1, 4))", "sample 0: input 'x': has shape (1, 4)"),
        ("def sample(): pass", "did you mean 'sample'?"),
    ],
)
@pytest.mark.parametrize("purpose", ["parity", "calibration"])
def test_bad_samples_are_errors(tmp_path: Path, body: str, expected: str, purpose: str) -> None:
    with pytest.raises(StageError) as caught:
        stage(tmp_path / "out", user_file(tmp_path, body), purpose)
    assert expected in str(caught.value)


def test_calibration_without_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="calibration needs real samples"):
        stage(tmp_path / "out", None, "calibration")


def test_what_is_no_npz_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    for content in (b"", b"not a zip", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(StageError, match=r"no \.npz of plain arrays"):
            stage(tmp_path / "out", str(path))
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(StageError, match=r"no \.npz of plain arrays"):
        stage(tmp_path / "out", str(path))
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(StageError, match=r"no \.npz of plain arrays"):
        stage(tmp_path / "out", str(path))
    with pytest.raises(StageError, match=r"no \.npz of plain arrays"):
        stage(tmp_path / "out", str(tmp_path / "missing.npz"))


def test_an_empty_npz_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.zeros((0, 3), np.float32))
    with pytest.raises(StageError, match="gives no sample"):
        stage(tmp_path / "out", str(tmp_path / "s.npz"))


def test_the_source_tells_its_inputs_where_none_are_declared(tmp_path: Path) -> None:
    stage(tmp_path / "out", None, declared=Signature(inputs=()))
    assert all(set(case.arrays) == {"x"} for case in read_cases(tmp_path / "out"))


def test_calibration_samples_come_in_the_layout_of_the_model(tmp_path: Path) -> None:
    image = Tensor(name="image", shape=(1, 3, 4, 5), dtype="float32", layout="nchw")
    body = "def samples():\n    yield np.arange(60, dtype='f4').reshape(1, 3, 4, 5)"
    stage(
        tmp_path / "out",
        user_file(tmp_path, body),
        "calibration",
        declared=Signature(inputs=(image,)),
        layout="nhwc",
    )
    (case,) = read_cases(tmp_path / "out")
    assert case.arrays["image"].shape == (1, 4, 5, 3)
    assert case.arrays["image"][0, 0, 0].tolist() == [0, 20, 40]


IMAGE = Signature(
    inputs=(Tensor(name="image", shape=(1, 3, 4, 4), dtype="float32", layout="nchw"),)
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(np.full((6, 6, 3), index, np.uint8)).save(folder / f"{index}.png")
    (folder / "readme.txt").touch()
    return folder


def images(out: Path, folder: Path, purpose: str = "parity", **options: Any) -> StageResult:
    steps = Preprocessing(crop=(4, 4), scale=0.5)
    whole: dict[str, Any] = {
        "source": {"kind": "fake"},
        "signature": IMAGE.to_json(),
        "samples": str(folder),
        "purpose": purpose,
        "layout": None,
        "preprocess": {"image": steps.to_json()},
        **options,
    }
    return run(inputs={"samples": folder}, options=json.loads(json.dumps(whole)), out=out)


def test_a_folder_of_images_gives_real_cases(tmp_path: Path, photos: Path) -> None:
    result = images(tmp_path / "out", photos)
    cases = [case for case in read_cases(tmp_path / "out") if case.origin == "real"]
    assert [case.name for case in cases] == ["real 0 0.png", "real 1 1.png"]
    assert [float(case.arrays["image"].max()) for case in cases] == [0.0, 0.5]
    assert result.notes["reason"] == "photos: files that are no images, left out: 1"


def test_an_image_that_does_not_fit_is_named(tmp_path: Path, photos: Path) -> None:
    steps = Preprocessing(crop=(4, 5)).to_json()
    with pytest.raises(StageError, match=r"sample 0 \(0\.png\): input 'image': has shape"):
        images(tmp_path / "out", photos, preprocess={"image": steps})


def fold() -> dict[str, Any]:
    folded = Folded.of(IMAGE.inputs[0], Preprocessing(crop=(4, 4), scale=0.5)).to_json()
    return {"kind": "fake", "fold": {"image": folded}}


def test_with_a_fold_images_stay_pixels(tmp_path: Path, photos: Path) -> None:
    sys.modules["fake_source"].toolchain = CORE  # type: ignore[attr-defined]
    steps = {"image": Preprocessing(crop=(4, 4)).to_json()}
    images(tmp_path / "out", photos, source=fold(), preprocess=steps)
    case = next(read_cases(tmp_path / "out"))
    assert (case.arrays["image"].shape, case.arrays["image"].dtype) == ((1, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ("samples = lambda: [np.zeros((1, 4, 4, 3), np.uint8)]", False),
        ("samples = lambda: [np.zeros((1, 3, 4, 4), np.float32)]", True),
    ],
)
def test_with_a_fold_a_function_gives_pixels(tmp_path: Path, body: str, refused: bool) -> None:
    sys.modules["fake_source"].toolchain = CORE  # type: ignore[attr-defined]
    options = {
        "source": fold(),
        "signature": IMAGE.to_json(),
        "samples": user_file(tmp_path, body),
        "purpose": "parity",
    }
    if not refused:
        run(inputs={}, options=options, out=tmp_path / "out")
        return
    with pytest.raises(StageError) as caught:
        run(inputs={}, options=options, out=tmp_path / "out")
    assert "with `preprocess: fold` the model takes 'image' uint8[1, 4, 4, 3]" in str(caught.value)
    assert "folder of images" in caught.value.fix


def calibration(tree: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tree / "calibration.json").read_text())
    return found


def test_a_calibration_set_has_a_digest_of_its_content(tmp_path: Path) -> None:
    stage(tmp_path / "a", user_file(tmp_path, TWO), "calibration")
    np.savez(tmp_path / "s.npz", x=np.float32([[[0.1] * 3], [[0.2] * 3]]))
    stage(tmp_path / "b", "s.npz", "calibration", npz=tmp_path / "s.npz")
    assert calibration(tmp_path / "a") == calibration(tmp_path / "b")
    assert calibration(tmp_path / "a") | {"sha256": ""} == {
        "origin": "real",
        "cases": 2,
        "sha256": "",
    }


def test_synthetic_calibration_draws_other_inputs_than_parity(tmp_path: Path) -> None:
    stage(tmp_path / "parity", None)
    result = stage(tmp_path / "out", "synthetic", "calibration")
    assert set(origins(tmp_path / "out")) == {"synthetic"}
    assert calibration(tmp_path / "out")["origin"] == "synthetic"
    assert "no real ones" in result.notes["reason"]
    assert result.notes["assumed"]
    cases = [case for tree in ("parity", "out") for case in read_cases(tmp_path / tree)]
    rows = [
        row.tobytes() for case in cases if case.origin == "synthetic" for row in case.arrays["x"]
    ]
    assert len(set(rows)) == len(rows)


def test_calibration_on_a_parity_sample_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.float32([[[0.3] * 3], [[0.2] * 3]]))
    stage(tmp_path / "parity", user_file(tmp_path, TWO))
    options = {
        "source": {"kind": "fake"},
        "signature": SIGNATURE.to_json(),
        "samples": "s.npz",
        "purpose": "calibration",
        "layout": None,
    }
    inputs = {"samples": tmp_path / "s.npz", "parity": tmp_path / "parity"}
    with pytest.raises(StageError, match="calibration sample 'real 1' is parity sample 'real 1'"):
        run(inputs=inputs, options=options, out=tmp_path / "out")


def labels(tree: Path) -> list[Any]:
    return [None if case.label is None else case.label.item() for case in read_cases(tree)]


def test_labelled_samples_are_kept_once_with_their_labels(tmp_path: Path) -> None:
    body = (
        "def samples():\n"
        "    for value in (1, 2, 2, 3):\n"
        "        yield {'x': np.full((1, 3), value / 9)}, value"
    )
    out = tmp_path / "out"
    result = stage(out, user_file(tmp_path, body), "task")
    assert (labels(out), set(origins(out))) == ([1, 2, 3], {"real"})
    assert result.notes["reason"] == "labelled samples that are earlier ones again, left out: 1"
    told = json.loads((out / "labelled.json").read_text())
    assert told["cases"] == 3
    again = stage(tmp_path / "again", user_file(tmp_path, body.replace(", value\n", "")), "task")
    assert json.loads((tmp_path / "again/labelled.json").read_text()) == told
    assert again.notes["cases"] == {"real": 3}


def test_text_may_be_a_label(tmp_path: Path) -> None:
    body = "def samples(): yield np.zeros((1, 3), 'f4'), 'the cat'"
    stage(tmp_path / "out", user_file(tmp_path, body), "task")
    assert labels(tmp_path / "out") == ["the cat"]


def test_labelled_samples_of_an_npz(tmp_path: Path) -> None:
    x = np.arange(6, dtype="f4").reshape(2, 3)
    np.savez(tmp_path / "s.npz", x=x, label=np.array(["ant", "bee"]))
    stage(tmp_path / "out", "s.npz", "task", npz=tmp_path / "s.npz")
    assert labels(tmp_path / "out") == ["ant", "bee"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def samples(): yield {'x': np.zeros((1, 3))}", "dict where a pair was expected"),
        ("def samples(): yield np.zeros((1, 4)), 1", "sample 0: input 'x': has shape (1, 4)"),
        ("def samples(): yield np.zeros((1, 3)), {}", "the label {} is nothing to score by"),
        ("def samples(): return []", "gives no sample"),
    ],
)
def test_bad_labelled_samples_are_errors(tmp_path: Path, body: str, expected: str) -> None:
    with pytest.raises(StageError) as caught:
        stage(tmp_path / "out", user_file(tmp_path, body), "task")
    assert expected in str(caught.value)


def test_a_folder_labels_images_by_its_sub_folders(tmp_path: Path) -> None:
    for name, shade in (("ant/1.png", 10), ("bee/1.png", 20), ("bee/2.png", 30)):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / "photos" / name)
    options = {
        "source": {"kind": "fake"},
        "signature": IMAGE.to_json(),
        "samples": str(tmp_path / "photos"),
        "purpose": "task",
        "layout": None,
        "preprocess": {"image": Preprocessing().to_json()},
    }
    run(inputs={"samples": tmp_path / "photos"}, options=options, out=tmp_path / "out")
    assert labels(tmp_path / "out") == ["ant", "bee", "bee"]
