from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosscast.pipeline import fingerprint
from crosscast.pipeline.fingerprint import digest, explain, ingredients, with_dependencies
from crosscast.pipeline.graph import Step
from crosscast.pipeline.toolchain import Toolchain

INGREDIENTS = st.dictionaries(st.text(), st.text(), max_size=5)
OPTIONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
VERSIONS = {"onnx": "1.23.2", "numpy": "2.4.6"}


def step(**changes: Any) -> Step:
    given: dict[str, Any] = {
        "id": "convert onnx",
        "stage": "convert",
        "module": "crosscast.pipeline.stages",
        "toolchain": Toolchain(name="onnx", distributions=("onnx", "absent")),
    }
    return Step(**given | changes)


def of(a_step: Step, **inputs: str) -> dict[str, str]:
    return ingredients(a_step, inputs=inputs, versions=VERSIONS.get)


def names(found: dict[str, str], kind: str) -> set[str]:
    return {name.partition(":")[2] for name in found if name.startswith(f"{kind}:")}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    """The name of a package of a third party, one of its own for each test."""
    name = f"plugin_{request.node.name.partition('[')[0]}"
    (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def write(tmp_path: Path, module: str, text: str) -> None:
    (tmp_path / Path(*module.split("."))).with_suffix(".py").write_text(text)


def test_ingredients_are_flat_and_by_name() -> None:
    found = of(step(options={"opset": 18, "source": {"kind": "torch"}, "none": {}}), model="abc")
    assert found["stage"] == "convert"
    assert found["input:model"] == "abc"
    assert found["option:opset"] == "18"
    assert found["option:source.kind"] == '"torch"'
    assert found["option:none"] == "{}"
    assert found["version:onnx"] == "1.23.2"
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "version:absent" not in found
    assert "overlay" not in found


def test_the_id_is_no_ingredient() -> None:
    assert of(step(id="one")) == of(step(id="two"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": None}, {}),
        ({"a": {}}, {"a": []}),
        ({"a.b": 1}, {"a": {"b": 1}}),
        ({"a": {"b": 1}, "c": 2}, {"a": {"b": 1, "c": 2}}),
    ],
)
def test_different_options_differ(one: Any, other: Any) -> None:
    assert digest(of(step(options=one))) != digest(of(step(options=other)))


@given(st.dictionaries(st.text(max_size=3), OPTIONS), st.dictionaries(st.text(max_size=3), OPTIONS))
def test_options_are_told_apart(one: Any, other: Any) -> None:
    same = fingerprint.canonical(one) == fingerprint.canonical(other)
    assert (digest(of(step(options=one))) == digest(of(step(options=other)))) == same


@given(INGREDIENTS, INGREDIENTS)
def test_digest_is_injective_and_orderless(one: dict[str, str], other: dict[str, str]) -> None:
    assert (digest(one) == digest(other)) == (one == other)
    assert digest(one) == digest(dict(reversed(one.items())))


def test_dependencies_count() -> None:
    base = of(step())
    one = with_dependencies(base, {"/m.py": "1"})
    assert base == of(step())
    assert len({digest(base), digest(one), digest(with_dependencies(base, {"/m.py": "2"}))}) == 3


def test_overlay_counts_by_content_and_its_pins_win(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    lock.write_text("# onnx==0 of old\nonnx==9.9 \\\n    --hash=sha256:12\nsng4onnx == 2.0.1\n")
    chain = Toolchain(name="x", distributions=("onnx", "numpy"), overlay=lock)
    found = of(step(toolchain=chain))
    assert fingerprint.locked_versions(lock) == {"onnx": "9.9", "sng4onnx": "2.0.1"}
    assert found["version:onnx"] == "9.9"
    assert found["version:numpy"] == "2.4.6"
    before = found["overlay"]
    lock.write_text("onnx==9.9 --hash=sha256:13\nsng4onnx==2.0.1\n")
    assert of(step(toolchain=chain))["overlay"] != before
    lock.unlink()
    assert of(step(toolchain=chain))["overlay"] == "missing"


def test_installed_version() -> None:
    assert fingerprint.installed_version("pytest") == pytest.__version__
    assert fingerprint.installed_version("no-such-distribution") is None


def test_code_follows_imports_but_not_to_inert_modules() -> None:
    found = of(step(module="crosscast.targets.base"))
    assert {"crosscast.targets.base", "crosscast.pipeline.signature"} <= names(found, "code")
    assert not names(found, "code") & fingerprint.INERT


def test_code_of_a_plugin_is_followed_without_importing_it(tmp_path: Path, plugin: str) -> None:
    write(tmp_path, f"{plugin}.__init__", "raise SystemExit")
    write(
        tmp_path,
        f"{plugin}.target",
        f"import os, {plugin}.plain as p\n"
        "def convert():\n"
        "    from . import (\n"
        "        relative,  # comment, with a comma\n"
        "        renamed as r,\n"
        "    )\n"
        "    from .deep.down import name\n"
        "    from crosscast.pipeline.stages import StageResult\n"
        "from ....too.far import x\n",
    )
    for name in ("plain", "relative", "renamed", "unused"):
        write(tmp_path, f"{plugin}.{name}", "")
    (tmp_path / plugin / "deep").mkdir()
    write(tmp_path, f"{plugin}.deep.down", "from ..target import convert")
    found = of(step(functions=(f"{plugin}.target:convert",)))
    expected = {plugin, *(f"{plugin}.{n}" for n in ("target", "plain", "relative", "renamed"))}
    assert names(found, "code") == {
        "crosscast.pipeline.stages",
        f"{plugin}.deep.down",
        *expected,
    }
    assert plugin not in sys.modules


def test_changed_code_is_another_fingerprint(tmp_path: Path, plugin: str) -> None:
    write(tmp_path, f"{plugin}.__init__", "")
    write(tmp_path, f"{plugin}.one", "x = 1")
    write(tmp_path, f"{plugin}.two", "x = 2")
    one, two = (of(step(functions=(f"{plugin}.{name}:x",))) for name in ("one", "two"))
    assert one[f"code:{plugin}.one"] != two[f"code:{plugin}.two"]


def test_missing_modules_are_left_to_the_step_itself() -> None:
    assert names(of(step(functions=("no.such.module:f",))), "code") == {"crosscast.pipeline.stages"}


LONG = '"' + "x" * 50 + '"'


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (None, {}, "first build"),
        ({"a": "1"}, {"a": "1"}, "its result is not in the cache"),
        ({"version:onnx2tf": "2.6.9"}, {"version:onnx2tf": "2.7.0"}, "onnx2tf 2.6.9 → 2.7.0"),
        ({}, {"version:onnxsim": "0.8.1"}, "onnxsim 0.8.1 added"),
        ({"version:onnxsim": "0.8.1"}, {}, "onnxsim 0.8.1 removed"),
        ({"option:opset": "17"}, {"option:opset": "18"}, "opset 17 → 18"),
        ({"option:options.mode": '"a"'}, {"option:options.mode": '"b"'}, "mode a → b"),
        ({"option:x": '""'}, {"option:x": '"1"'}, 'x "" → 1'),
        ({"option:x": '"1"'}, {"option:x": "1"}, "x changed"),
        ({"option:x": "not json"}, {"option:x": "1"}, "x not json → 1"),
        ({}, {"option:opset": "18"}, "opset 18 added"),
        ({"option:usage": LONG}, {"option:usage": "1"}, "usage changed"),
        ({"input:source.weights": "1"}, {"input:source.weights": "2"}, "weights changed"),
        ({"input:model": "1"}, {"input:model": "missing"}, "model is gone"),
        ({}, {"input:samples": "1"}, "samples added"),
        ({"dependency:/m/model.py": "1"}, {"dependency:/m/model.py": "2"}, "model.py changed"),
        ({"dependency:/m.py": "1"}, {"dependency:/m.py": "missing"}, "m.py is gone"),
        ({"dependency:/m.py": "1", "stage": "a"}, {"stage": "b"}, "stage a → b"),
        ({"dependency:/m.py": "1"}, {}, "other files are read"),
        (
            {"code:crosscast.pipeline.stages.convert": "1"},
            {"code:crosscast.pipeline.stages.convert": "2"},
            "code of stages/convert changed",
        ),
        (
            {"code:crosscast.targets.families.onnx": "1"},
            {"code:crosscast.targets.families.onnx": "2"},
            "code of targets/families/onnx changed",
        ),
        ({"python": "3.11"}, {"python": "3.12"}, "python 3.11 → 3.12"),
        ({"overlay": "1"}, {"overlay": "2"}, "overlay changed"),
        ({"overlay": "1", "version:x": "1"}, {"overlay": "2", "version:x": "2"}, "x 1 → 2"),
        ({"unknown:kind": "1"}, {"unknown:kind": "2"}, "unknown 1 → 2"),
        (
            {"input:a": "1", "option:b": "1", "python": "1", "code:c": "1", "version:d": "1"},
            {"input:a": "2", "option:b": "2", "python": "2", "code:c": "2", "version:d": "2"},
            "a changed; b 1 → 2; d 1 → 2; and 2 more",
        ),
    ],
)
def test_explain(old: dict[str, str] | None, new: dict[str, str], reason: str) -> None:
    assert explain(old, new) == reason


def test_a_name_from_a_module_is_not_taken_for_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Step.py").write_text("")  # as in `from crosscast.pipeline.graph import Step`
    monkeypatch.syspath_prepend(tmp_path)
    assert fingerprint._origin("crosscast.pipeline.graph.Step") is None
