"""Which artifact a device takes, and what is said where none fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from releases import artifact, content

from crosscast.pipeline.config.devices import Profiles
from crosscast.pipeline.config.profiles import OURS, Device
from crosscast.pipeline.errors import ConfigError, RegistryError
from crosscast.pipeline.release.devices import choose, find, profiles, shipped, to_ship
from crosscast.pipeline.release.document import Release
from crosscast.targets import TARGETS

FAILED = {"status": "failed", "reason": "12 dB"}
FLOAT = [{"name": "x", "shape": [3], "dtype": "float32"}]
INTEGER = [{"name": "x", "shape": [3], "dtype": "int8"}]


def release(**artifacts: dict[str, Any]) -> Release:
    made = {
        name.replace("_", "-"): artifact(files={"model.bin": b"0" * 100}, **changes)
        for name, changes in artifacts.items()
    }
    return Release(content=content(made))


def device(*targets: str, **limits: Any) -> Device:
    return Device(targets=targets, limits=limits)


def test_our_profiles_have_the_keys_of_any_other() -> None:
    Profiles.model_validate_json(json.dumps(yaml.safe_load(OURS.read_bytes())), strict=True)


def test_every_profile_names_targets_that_there_are() -> None:
    known = profiles()
    assert {"iphone-15", "pixel-8", "raspberry-pi-5", "coral", "browser-wasm", "node"} <= set(known)
    for name, profile in known.items():
        assert profile.targets, name
        assert profile.summary, name
        assert set(profile.targets) <= set(TARGETS), name
        assert len(set(profile.targets)) == len(profile.targets), name


def test_the_best_ranked_one_that_passed_and_fits_is_taken() -> None:
    made = release(onnx={}, onnx_int8={}, tflite_int8={"verdict": FAILED})
    chosen = choose(made, "d", device("tflite-fp16", "tflite-int8", "onnx-int8", "onnx"))
    assert chosen.target == "onnx-int8"
    assert list(chosen.explained()) == [
        "tflite-fp16: is not in this release",
        "tflite-int8: was not proven: failed (12 dB)",
        "onnx-int8: taken, the first that fits d",
        "onnx: fits, but is ranked lower",
    ]


@pytest.mark.parametrize(
    ("limits", "changes", "why"),
    [
        ({"coreml": "iOS16"}, {"options": {"minimum": "iOS17"}}, "needs iOS17, .* ends at iOS16"),
        ({"coreml": "iOS17"}, {"options": {"minimum": "iOS17"}}, ""),
        ({"opset": 16}, {"options": {"opset": 17}}, "has opset 17, .* ends at 16"),
        ({"opset": 16}, {"options": {"opset": None}}, ""),
        ({"size": 99}, {}, "MiB, and the device has room for"),
        ({"size": 100}, {}, ""),
        ({"static": True}, {}, "dynamic dimension batch"),
        ({"static": True}, {"dims": {"batch": [1, 1]}}, ""),
        ({"static": True}, {"dims": {}}, ""),
        ({"integer": True}, {}, "has x, y in float"),
        ({"integer": True}, {"inputs": INTEGER, "outputs": FLOAT}, "has x in float"),
        ({"integer": True}, {"inputs": INTEGER, "outputs": INTEGER}, ""),
        (
            {"integer": True},
            {
                "inputs": INTEGER,
                "outputs": INTEGER,
                "precision": {"delivered": "int8", "kept_in_float": ["conv"]},
            },
            "some operators in float",
        ),
    ],
)
def test_limits(limits: dict[str, Any], changes: dict[str, Any], why: str) -> None:
    made, profile = release(onnx=changes), device("ort", "onnx", **limits)
    if why:
        with pytest.raises(RegistryError, match=f"nearest is onnx, but it .*{why}"):
            choose(made, "d", profile)
    else:
        assert choose(made, "d", profile).target == "onnx"


def test_what_was_proven_is_nearer_than_what_was_not() -> None:
    made = release(onnx_int8={"verdict": FAILED}, onnx={})
    with pytest.raises(RegistryError, match="nearest is onnx, but it has the dynamic dimension"):
        choose(made, "d", device("onnx-int8", "onnx", static=True))


def test_a_release_without_anything_for_the_device() -> None:
    with pytest.raises(RegistryError, match="it has onnx, and the device takes tflite-int8"):
        choose(release(onnx={}), "d", device("tflite-int8"))


def test_an_unknown_device() -> None:
    with pytest.raises(ConfigError, match="no device 'pixel8'; did you mean 'pixel-8'"):
        find("pixel8", profiles())


def test_own_devices_build_on_ours(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "devices:\n  kiosk: {summary: Ours, like: microcontroller, limits: {size: 5}}\n"
        "  panel: {targets: [onnx]}\n"
    )
    known = profiles(path)
    assert known["kiosk"].targets == known["microcontroller"].targets
    assert known["kiosk"].limits == {"static": True, "integer": True, "size": 5}
    assert known["panel"].targets == ("onnx",)
    assert "pixel-8" in known


def test_a_file_goes_before_a_release_and_that_before_ours(tmp_path: Path) -> None:
    shipped = {"pixel-8": ["onnx"], "kiosk": ["onnx"], "android": ["ort"]}
    path = tmp_path / "mine.yaml"
    path.write_text("devices: {kiosk: {targets: [ort]}, panel: {like: pixel-8}}\n")
    known = profiles(path, shipped={name: {"targets": shipped[name]} for name in shipped})
    assert known["kiosk"].targets == ("ort",)
    assert known["pixel-8"].targets == known["panel"].targets == ("onnx",)
    assert known["pixel-9"].targets == ("ort",)  # like android
    assert known["node"] == profiles()["node"]


def test_devices_are_complete_in_a_release() -> None:
    own = {
        "kiosk": {"like": "ipad-9", "summary": "Ours", "limits": {"coreml": "iOS16"}},
        "panel": {"like": "kiosk", "limits": {"coreml": None, "size": 5}},
    }
    told = to_ship(own)
    assert told == json.loads(json.dumps(told))
    assert told["kiosk"]["limits"] == {"coreml": "iOS16"}
    assert told["kiosk"]["targets"] == list(profiles()["ipad-9"].targets)
    assert told["panel"] == {**told["kiosk"], "limits": {"size": 5}}
    assert shipped(Release(content={**content({}), "devices": told})) == told
    assert shipped(Release(content=content({}))) == {}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, "valid dict"),
        ([], "valid dict"),
        ({"kiosk": {"targets": []}}, r"kiosk\.targets: .* at least 1 item"),
        ({"kiosk": {"targets": ["onnx"], "limits": {"npu": 1}}}, r"kiosk\.limits\.npu: Extra"),
        ({"kiosk": {"summary": "nothing"}}, "kiosk is not complete"),
        ({"a": {"like": "b", "targets": ["onnx"]}}, "a is not complete"),
    ],
)
def test_devices_of_a_release_that_cannot_be_used(told: Any, said: str) -> None:
    with pytest.raises(RegistryError, match=f"m 1.0.0: its devices cannot be used: .*{said}"):
        shipped(Release(content={**content({}), "devices": told}))


def test_every_mistake_of_own_devices_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "devices:\n"
        "  a: {targets: [onxx]}\n"
        "  b: {like: pixel8}\n"
        "  c: {like: d}\n"
        "  d: {like: c}\n"
        "  e: {summary: nothing}\n"
    )
    with pytest.raises(ConfigError) as caught:
        profiles(path)
    lines = str(caught.value).splitlines()
    assert "mine.yaml:2:17: devices.a.targets[0]: there is no target 'onxx'; did you" in lines[0]
    assert "no device 'pixel8'; did you mean 'pixel-8'?" in lines[1]
    assert "goes in a circle: c -> d -> c" in lines[2]
    assert "goes in a circle: d -> c -> d" in lines[3]
    assert "says neither 'targets' nor what it is 'like'" in lines[4]
    path.write_text("devices:\n  a: {targets: [onnx], limits: {coreml: iOS99, siez: 1}}\n")
    with pytest.raises(ConfigError, match=r"(?s)expected 'iOS15'.*did you mean 'size'"):
        profiles(path)
