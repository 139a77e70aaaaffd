"""What is found missing, with distributions that are not there for the test alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crosscast.pipeline import doctor
from crosscast.pipeline.executors import overlay
from crosscast.targets import TARGETS
from crosscast.targets.base import toolchains

Hide = Callable[..., None]


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Hide:
    """Have these distributions not be installed, and all others be."""

    def one(*names: str) -> None:
        monkeypatch.setattr(
            doctor, "installed_version", lambda name: None if name in names else "1.0"
        )

    return one


def health(cache: Path) -> dict[str, doctor.TargetHealth]:
    return {entry.target: entry for entry in doctor.targets(cache)}


def test_all_is_well_where_all_is_installed(tmp_path: Path, hide: Hide) -> None:
    hide()
    found = health(tmp_path)
    assert list(found) == list(TARGETS)
    assert all(entry.builds for entry in found.values())
    for name, entry in found.items():
        assert entry.runs is not bool(TARGETS[name].no_runtime)
        assert entry.needs == TARGETS[name].no_runtime


def test_a_missing_runtime_is_named_with_its_extra(tmp_path: Path, hide: Hide) -> None:
    hide("ai-edge-litert")
    found = health(tmp_path)
    for name in ("tflite-fp32", "tflite-fp16", "tflite-int8"):
        assert not found[name].runs
        assert "pip install 'crosscast[tflite]'" in found[name].needs
    assert found["onnx"].builds
    assert found["onnx"].runs


def test_a_missing_quantizer_leaves_the_other_targets(tmp_path: Path, hide: Hide) -> None:
    hide("ai-edge-quantizer")
    found = health(tmp_path)
    assert not found["tflite-int8"].builds
    assert found["tflite-int8"].runs
    assert found["tflite-fp32"].builds


def test_toolchains_are_listed_once_with_versions(tmp_path: Path, hide: Hide) -> None:
    hide("coremltools")
    found = {entry.toolchain.name: entry for entry in doctor.toolchains(tmp_path)}
    assert len(found) == len(doctor.toolchains(tmp_path))
    assert found["coreml"].versions["coremltools"] is None
    assert found["coreml"].fix == "pip install 'crosscast[coreml]'"
    assert found["onnx"].fix == ""
    assert found["onnx"].versions["onnx"] == "1.0"


def test_every_toolchain_with_distributions_says_what_installs_them(tmp_path: Path) -> None:
    for entry in doctor.toolchains(tmp_path):
        assert entry.toolchain.extra, entry.toolchain.name


def test_an_overlay_is_built_or_not(tmp_path: Path, hide: Hide) -> None:
    hide()

    def states() -> dict[str, str]:
        return {entry.toolchain.name: entry.overlay for entry in doctor.toolchains(tmp_path)}

    assert states()["onnx2tf"] == "not built"
    assert states()["onnx"] == ""
    lock = toolchains(TARGETS["tflite-fp32"])["onnx"].overlay
    assert lock is not None
    overlay.overlay_directory(lock, tmp_path).mkdir(parents=True)
    assert states()["onnx2tf"] == "built"


def test_each_overlay_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(lock: Path, cache: Path) -> Path:
        built.append(lock)
        return cache / lock.stem

    monkeypatch.setattr(overlay, "build", build)
    assert doctor.build_overlays(tmp_path) == [tmp_path / lock.stem for lock in built]
    assert len(built) == len(set(built)) == 1


def test_a_target_builds_by_the_routes_that_are_left(tmp_path: Path, hide: Hide) -> None:
    hide("tensorflow")
    entry = health(tmp_path)["tflite-fp32"]
    assert entry.builds
    assert entry.runs
    assert entry.needs == "from saved_model: pip install 'crosscast[tensorflow,tflite]'"
