"""The key `release`: what it means, and how mistakes in it are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosscast.pipeline.config.devices import written
from crosscast.pipeline.config.load import load
from crosscast.pipeline.config.release import Gates, ReleasePolicy
from crosscast.pipeline.errors import ConfigError

CONFIG = """\
model: m
version: 1.0.0
source: {{onnx: m.onnx}}
targets: {{onnx: {{}}}}
release: {release}
"""


def policy(tmp_path: Path, release: str, **environ: str) -> ReleasePolicy:
    (tmp_path / "m.onnx").touch()
    path = tmp_path / "m.yaml"
    path.write_text(CONFIG.format(release=release))
    return load(path, environ=environ).release


def test_limits_have_defaults_and_each_can_be_left_out(tmp_path: Path) -> None:
    assert policy(tmp_path, "{}").gates == Gates(
        max_size_growth=0.05, max_latency_growth=0.1, max_snr_drop_db=3, max_metric_drop=0.01
    )
    assert policy(tmp_path, "{gates: {max_size_growth: null}}").gates.max_size_growth is None


@pytest.mark.parametrize("given", ["12.5%", "12.5 %", "0.125"])
def test_a_share_is_a_number_or_in_percent(tmp_path: Path, given: str) -> None:
    gates = policy(tmp_path, f"{{gates: {{max_latency_growth: {given}}}}}").gates
    assert gates.max_latency_growth == 0.125


def test_places_are_seen_from_the_config(tmp_path: Path) -> None:
    found = policy(tmp_path, "{registry: ../shelf, key: own.pem}")
    assert (found.registry, found.key) == (f"{tmp_path}/../shelf", f"{tmp_path}/own.pem")


def test_urls_and_the_text_of_a_key_are_left_as_they_are(tmp_path: Path) -> None:
    found = policy(
        tmp_path,
        "{registry: 's3://shelf/models', key: '${KEY}'}",
        KEY="-----BEGIN PRIVATE KEY-----\nx",
    )
    assert (found.registry, found.key) == (
        "s3://shelf/models",
        "-----BEGIN PRIVATE KEY-----\nx",
    )


def test_devices_of_ones_own_build_on_those_of_all(tmp_path: Path) -> None:
    text = "{devices: {kiosk: {like: pixel-8, limits: {opset: 18}}, panel: {like: kiosk}}}"
    devices = policy(tmp_path, text).devices
    assert devices["kiosk"].like == "pixel-8"
    assert devices["kiosk"].limits.opset == 18
    assert written(devices)["panel"] == {"like": "kiosk"}


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("{chanel: beta}", "m.yaml:5:11: release.chanel: unknown key; did you mean 'channel'?"),
        ("{channel: 1.0.0}", "m.yaml:5:20: release.channel: expected lower-case letters"),
        (
            "{gates: {max_size_growth: 5 percent}}",
            "release.gates.max_size_growth: expected a share such as '5%' or 0.05, got '5 percent'",
        ),
        ("{devices: {a: {targets: [onxx]}}}", "m.yaml:5:35: release.devices.a.targets[0]: there"),
        ("{devices: {a: {like: pixl-8}}}", "m.yaml:5:31: release.devices.a.like: there is no dev"),
        ("{devices: {a: {like: a}}}", "release.devices.a.like: goes in a circle: a -> a"),
        ("{devices: {a: {}}}", "m.yaml:5:24: release.devices.a: says neither 'targets' nor what"),
        ("{devices: {a: {limits: {siez: 1}}}}", "a.limits.siez: unknown key; did you mean 'size'"),
        ("{devices: {a: {limits: {coreml: iOS9}, like: pixel-8}}}", "expected 'iOS15', 'iOS16'"),
        (
            "{devices: {a: {like: coral}}}",
            "release.devices.a: takes none of this config's targets, only tflite-int8",
        ),
        ("{gates: {max_snr_drop_db: -1}}", "max_snr_drop_db: expected 0 or more, got -1"),
        ("{gates: {max_metric_drop: .inf}}", "max_metric_drop: expected a finite number"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, release: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        policy(tmp_path, release)
    assert said in str(refused.value)


def test_the_text_of_a_key_is_never_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        policy(tmp_path, "{channel: '${KEY}'}", KEY="-----BEGIN PRIVATE KEY-----")
    assert "BEGIN" not in str(refused.value)
