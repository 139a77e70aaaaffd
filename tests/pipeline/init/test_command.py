"""The command's work around the look: refusals, paths, and a file that is whole or not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosscast.pipeline.config.load import load
from crosscast.pipeline.errors import ConfigError, StageError
from crosscast.pipeline.init import command
from crosscast.pipeline.init.facts import Facts, Input
from crosscast.pipeline.init.kinds import Model
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.store import Store

X = Input(name="x", shape=("batch", 3), dtype="float32", range=(-1, 1), why="assumed")
FACTS = Facts(source={}, inputs=(X,), dims={"batch": (1, 4)}, operators={"Conv": 1})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "nets").mkdir(parents=True)
    (folder / "nets/tiny.py").write_text("import torch\ndef build(): ...\n")

    def facts(self: Any, keys: Any) -> Facts:
        return replace(FACTS, source=dict(keys))

    monkeypatch.setattr(command._Look, "facts", facts)
    monkeypatch.chdir(folder)
    return folder


def write(name: str, out: str, **more: Any) -> command.Written:
    settings = Settings(artifacts=Path(out))
    given = {"targets": (), "sha256": "", "trusted": False, "force": False, **more}
    store = Store(Path("cache").absolute())
    return command.write(name, Path(out), store=store, settings=settings, say=print, **given)


def test_the_config_is_written_and_loads(project: Path) -> None:
    written = write("nets/tiny.py:build", "configs/tiny.yaml")
    config = load("configs/tiny.yaml")
    assert config.model == "tiny"
    assert config.source.to_source()["factory"] == f"{project}/nets/tiny.py:build"
    assert "torch: ../nets/tiny.py:build" in Path("configs/tiny.yaml").read_text()
    told = command.described(written)
    assert "next: crosscast build configs/tiny.yaml" in told
    assert "input x [batch, 3] float32" in told
    assert [path.name for path in Path("configs").iterdir()] == ["tiny.yaml"]


def test_nothing_is_overwritten_unless_told(project: Path) -> None:
    Path("m.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        write("nets/tiny.py:build", "m.yaml")
    assert Path("m.yaml").read_text() == "mine"
    write("nets/tiny.py:build", "m.yaml", force=True)
    assert load("m.yaml").targets
    with pytest.raises(ConfigError, match="this is a directory"):
        write("nets/tiny.py:build", "nets", force=True)


def test_a_config_that_would_not_load_is_not_written(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("m.yaml").write_text("mine")
    wrong = replace(X, range=(1.0, 1.0))
    monkeypatch.setattr(
        command._Look, "facts", lambda _, keys: replace(FACTS, source=dict(keys), inputs=(wrong,))
    )
    with pytest.raises(ConfigError, match=r"^m.yaml:\d+:\d+: inputs.x.range"):
        write("nets/tiny.py:build", "m.yaml", force=True)
    assert Path("m.yaml").read_text() == "mine"
    assert sorted(path.name for path in project.iterdir()) == ["cache", "m.yaml", "nets"]


def test_a_pickle_needs_trust(project: Path) -> None:
    Path("m.joblib").write_bytes(b"\x80\x04" + b"\xff" * 20)
    with pytest.raises(StageError, match="can run any code"):
        write("m.joblib", "m.yaml")
    write("m.joblib", "m.yaml", trusted=True, targets=("onnx",))
    assert "trusted: true" in Path("m.yaml").read_text()


def test_a_url_needs_a_digest_and_a_digest_a_url(project: Path) -> None:
    with pytest.raises(ConfigError, match="needs its file's sha256"):
        write("https://example.com/m.onnx", "m.yaml")
    with pytest.raises(ConfigError, match="'12' is no sha256"):
        write("https://example.com/m.onnx", "m.yaml", sha256="12")
    with pytest.raises(ConfigError, match="is for a url"):
        write("nets/tiny.py:build", "m.yaml", sha256="12")


def test_a_url_stays_a_url_in_the_config(project: Path) -> None:
    import hashlib

    data = b"\x08\x08\x12\x07pytorch" + b"\xff" * 40
    Path("far.onnx").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    write(f"file://{project}/far.onnx", "m.yaml", sha256=digest, targets=("onnx",))
    text = Path("m.yaml").read_text()
    assert f'url: "file://{project}/far.onnx"' in text
    assert digest in text


@pytest.mark.parametrize(
    ("path", "function", "expected"),
    [
        ("/a/My Net (v2).onnx", "", "my-net-v2"),
        ("/a/resnet/model.onnx", "", "resnet"),
        ("/a/resnet/1", "", "resnet"),
        ("/a/nets.py", "tiny_cnn", "tiny_cnn"),
        ("/a/nets.py", "build", "nets"),
        ("/model.onnx", "", "model"),
        ("/日本.onnx", "", "model"),
    ],
)
def test_names_of_models(path: str, function: str, expected: str) -> None:
    model = Model(kind="onnx", path=Path(path), function=function)
    assert command.slug(model) == expected
