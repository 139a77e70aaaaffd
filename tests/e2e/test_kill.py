"""A build that is killed at any moment costs its running steps, and nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from crosscast.pipeline import manifest as manifests

pytestmark = pytest.mark.e2e

KILLS = 50
DELIVERIES = 20
RESET = 6  # kills between two fresh stores
PATIENCE = 10.0
TARGETS = ("onnx", "onnx-fp16", "tflite-fp32")
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image):
        return self.head(self.conv(image).relu().mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Net()
"""
CONFIG = f"""
model: tiny
version: 1.0.0
source: {{torch: net.py:build}}
inputs:
  image: {{shape: [batch, 3, 16, 16], dtype: float32, range: [-1, 1]}}
targets: {{{", ".join(f"{name}: {{}}" for name in TARGETS)}}}
"""


class Build:
    """One config, built again and again into one directory with a store that may be reset."""

    def __init__(self, root: Path, overlays: Path) -> None:
        self.overlays = overlays
        self.mark = uuid.uuid4().hex
        self.config, self.cache, self.out = root / "config.yaml", root / "cache", root / "out"
        self.log = root / "log.txt"
        self.net = root / "net.py"
        self.config.write_text(CONFIG)
        self.net.write_text(NET)
        self.reset()

    def reset(self) -> None:
        """Forget all that was built and delivered."""
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)
        self.cache.mkdir()
        (self.cache / "overlays").symlink_to(self.overlays)

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "crosscast.pipeline.cli", "build"]
        environment = {"CROSSCAST_CACHE": str(self.cache), "CROSSCAST_TEST": self.mark}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [*command, str(self.config), "--out", str(self.out)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    def finish(self) -> float:
        """Build to the end; the seconds it took."""
        started = time.monotonic()
        assert self.start().wait(300) == 0, self.log.read_text()
        return time.monotonic() - started

    def kill_after(self, seconds: float) -> bool:
        """Build, and kill -9 after so long; whether it still ran then."""
        process = self.start()
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        assert code == 0, self.log.read_text()
        return False

    def processes(self) -> list[int]:
        """What is alive of all that was started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # gone, a zombie, or not ours
                if self.mark in process.environ().values():
                    found.append(process.pid)
        return found

    def files(self) -> dict[str, bytes]:
        """Every file below the output directory."""
        paths = (path for path in self.out.rglob("*") if path.is_file())
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in paths}

    def check(self) -> None:
        """No process is left, and every artifact that can be seen is whole."""
        end = time.monotonic() + PATIENCE
        while self.processes() and time.monotonic() < end:
            time.sleep(0.01)
        assert self.processes() == []
        for name in TARGETS:
            artifact = self.out / "tiny/1.0.0" / name
            if artifact.exists():
                assert (artifact / "USAGE.md").is_file()
                assert (
                    len(list(artifact.iterdir())) == 4
                )  # and nothing that the manifest does not list
                manifests.check_files(artifact, manifests.read(artifact))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, overlays: Path) -> Iterator[Build]:
    value = Build(tmp_path_factory.mktemp("kill"), overlays)
    yield value
    for pid in value.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(build: Build) -> tuple[float, dict[str, bytes]]:
    """Seconds and files of a build in a fresh store that nobody kills."""
    first = build.finish()  # it may have to warm the machine's caches
    build.reset()
    seconds = min(first, build.finish())
    files = build.files()
    assert len([name for name in files if name.endswith("manifest.json")]) == len(TARGETS)
    return seconds, files


def test_killed_at_any_moment(build: Build, undisturbed: tuple[float, dict[str, bytes]]) -> None:
    whole, expected = undisturbed
    moments = random.Random(0)
    kills = 0
    build.reset()
    while kills < KILLS:
        if build.kill_after(moments.uniform(0, whole)):
            kills += 1
            build.check()
            if kills % RESET == 0:
                build.reset()
        else:  # it was done before, from what the killed ones had got to
            assert build.files() == expected
            build.reset()
    build.finish()
    build.check()
    assert build.files() == expected
    assert not list((build.cache / "tmp").iterdir())


def test_killed_while_delivering(build: Build, undisturbed: tuple[float, dict[str, bytes]]) -> None:
    """Two models take turns in one place; their steps are done, so that only delivery is left."""
    moments = random.Random(1)
    nets = (NET, NET.replace("manual_seed(0)", "manual_seed(1)"))
    expected = []
    for net in nets:
        build.net.write_text(net)
        build.finish()
        expected.append(build.files())
    assert expected[0] == undisturbed[1] != expected[1]
    whole = build.finish()
    for turn in range(DELIVERIES):
        build.net.write_text(nets[turn % 2])
        build.kill_after(moments.uniform(whole / 2, whole))
        build.check()
    for net, files in zip(nets, expected, strict=True):
        build.net.write_text(net)
        build.finish()
        assert build.files() == files
