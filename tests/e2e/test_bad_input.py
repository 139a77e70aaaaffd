"""What users get wrong, and what machines do to them: each ends with its exit code, words that tell
what to do, no traceback, and nothing lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from disks import grow, small_disk

from crosscast.pipeline import manifest as manifests

pytestmark = pytest.mark.e2e

PATIENCE = 120.0
NET = """
import sys, time
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
SAMPLES = """
import numpy as np

def parity():
    yield {"image": np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8)}
"""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended. said: all that it printed."""

    code: int
    said: str

    def refused(self, code: int, *words: str) -> None:
        """It ended with that code, said those words, and showed no one a traceback."""
        self.ended(code, *words)
        assert "Traceback (most recent call last)" not in self.said
        assert "bug in crosscast" not in self.said

    def ended(self, code: int, *words: str) -> None:
        """It ended with that code and said those words."""
        assert self.code == code, self.said
        assert [word for word in words if word not in self.said] == [], self.said


class Project:
    """A user's directory: a config, a net, and what comes out."""

    def __init__(self, root: Path, cache: Path, mark: str) -> None:
        self.root = root
        self.out = root / "out"
        self.cache = cache
        self.mark = mark
        self.write("net.py", NET)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def net(self, code: str) -> None:
        """Put code in place of the factory."""
        self.write("net.py", NET + code)

    def config(
        self,
        targets: str = "{onnx: {}}",
        *,
        source: str = "{torch: net.py:build}",
        shape: str = "[batch, 3, 8, 8]",
        **more: str,
    ) -> Path:
        lines = [
            "model: tiny",
            "version: 1.0.0",
            f"source: {source}",
            f"inputs: {{image: {{shape: {shape}, dtype: float32, range: [-1, 1]}}}}",
            f"targets: {targets}",
            *(f"{key}: {value}" for key, value in more.items()),
        ]
        return self.write("config.yaml", "\n".join(lines))

    def start(self, *words: str | Path, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "crosscast.pipeline.cli", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "CROSSCAST_CACHE": str(self.cache),
                "CROSSCAST_TEST": self.mark,
                **environ,
            },
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Done:
        said, _ = process.communicate(timeout=PATIENCE)
        return Done(code=process.returncode, said=said)

    def run(self, *words: str | Path, **environ: str) -> Done:
        return self.end(self.start(*words, **environ))

    def build(self, targets: str = "{onnx: {}}", **config: str) -> Done:
        """Build a config with these targets."""
        return self.run("build", self.config(targets, **config), "--out", self.out)

    def delivered(self) -> dict[str, dict[str, Any]]:
        """The manifests of what was delivered, by target; all whole, and nothing beside them."""
        found = {path.parent.name: path.parent for path in self.out.rglob("manifest.json")}
        listed = {path.name for path in self.out.glob("*/*/*")}
        assert listed == set(found), "half-written or left over"
        for artifact in found.values():
            manifests.check_files(artifact, manifests.read(artifact))
        return {name: manifests.read(artifact) for name, artifact in found.items()}

    def bytes(self) -> dict[str, bytes]:
        """Every delivered file."""
        files = (path for path in self.out.rglob("*") if path.is_file())
        return {path.relative_to(self.out).as_posix(): path.read_bytes() for path in files}

    def processes(self) -> list[int]:
        """What is alive of all that was started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # gone, a zombie, or not ours
                if self.mark in process.environ().values():
                    found.append(process.pid)
        return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, overlays: Path) -> Path:
    return _cache(tmp_path_factory.mktemp("cache"), overlays)


def _cache(path: Path, overlays: Path) -> Path:
    (path / "overlays").symlink_to(overlays)
    return path


@pytest.fixture
def project(tmp_path: Path, cache: Path) -> Iterator[Project]:
    root = tmp_path / "project"
    root.mkdir()
    value = Project(root, cache, uuid.uuid4().hex)
    yield value
    left = value.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


# Weights


def weights(project: Project, name: str, content: bytes) -> Done:
    project.write(name, content)
    return project.build(source=f"{{torch: net.py:build, weights: {name}}}")


def test_missing_weights(project: Project) -> None:
    done = project.build(source="{torch: net.py:build, weights: net.pth}")
    done.refused(2, "config.yaml:3:", "source.weights: no such file: 'net.pth'")
    assert not project.out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"conv.weight = 1\n", ["is text; it begins 'conv.weight = 1'", "torch.save("]),
        (b"<!DOCTYPE html><html>404</html>", ["is a web page (HTML)", "fetch it again"]),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            ["is a Git LFS pointer", "git lfs pull"],
        ),
        (b"", ["is empty"]),
        (b"\x80\x02\x00\x00junk" * 9, ["cannot be read as torch weights"]),
    ],
)
def test_weights_that_are_none(project: Project, content: bytes, words: list[str]) -> None:
    weights(project, "net.pth", content).refused(1, "weights file", "net.pth", *words)
    assert project.delivered() == {}


def test_truncated_weights(project: Project) -> None:
    path = project.root / "whole.pth"
    torch.save({"conv.weight": torch.zeros(8, 3, 3, 3)}, path)
    half = path.read_bytes()[: path.stat().st_size // 2]
    weights(project, "net.pth", half).refused(1, "net.pth is truncated")
    assert project.delivered() == {}


def test_weights_of_another_model(project: Project) -> None:
    path = project.root / "other.pth"
    torch.save({"conv.weight": torch.zeros(8, 3, 3, 3)}, path)
    done = weights(project, "net.pth", path.read_bytes())
    done.refused(1, "does not fit the model (Net)", "conv.bias")
    assert project.delivered() == {}


# The factory


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "def build():\n    raise ValueError('no variant b9')\n",
            ["factory", "net.py:21 in build: ValueError: no variant b9"],
        ),
        ("import no_such_package\n", ["importing", "No module named 'no_such_package'"]),
        ("def build():\n    Net()\n", ["gave None, not a torch.nn.Module", "return model"]),
        (
            "def build():\n    print('usage: net SIZE')\n    sys.exit(3)\n",
            ["called sys.exit(3) at net.py:22 in build", "return or raise instead"],
        ),
        ("def build():\n    return Net\n", ["the class Net itself"]),
    ],
)
def test_a_factory_that_fails(project: Project, code: str, words: list[str]) -> None:
    project.net(code)
    project.build().refused(1, "onnx  error: ", *words)
    assert project.delivered() == {}


def test_a_factory_that_is_not_found(project: Project) -> None:
    done = project.build(source="{torch: net.py:biuld}")
    done.refused(2, "config.yaml:3:", "no such function", "did you mean 'build'?")
    assert not project.out.exists()


def test_a_factory_that_is_not_found_at_run_time(project: Project) -> None:
    project.write("other.py", "from net import *\ndef make(): ...\n")
    done = project.build(source="{torch: other.py:mak}")
    done.refused(1, "there is no function 'mak'; did you mean 'make'?")


def test_what_a_factory_prints_is_in_the_log_that_is_named(project: Project) -> None:
    project.net("def build():\n    print('usage: net SIZE')\n    sys.exit(3)\n")
    done = project.build()
    log = Path(done.said.split("        log: ")[1].splitlines()[0])
    assert "usage: net SIZE" in log.read_text()


# What the model cannot do


def test_an_input_shape_that_the_model_refuses(project: Project) -> None:
    done = project.build(shape="[batch, 4, 8, 8]")
    done.refused(1, "the model refuses inputs", "image", "4, 8, 8", "net.py", "inputs")
    assert project.delivered() == {}


ODD = """
class Spectrum(nn.Module):
    def forward(self, sound):
        window = torch.hann_window(16)
        return torch.stft(sound, 16, 4, window=window, center=False, return_complex=False)


class Odd(Net):
    def __init__(self):
        super().__init__()
        self.spectrum = Spectrum()

    def forward(self, image):
        spectrum = self.spectrum(image.flatten(1)).mean((1, 2))
        return torch.cat([super().forward(image), spectrum * FACTOR], 1)


def build():
    torch.manual_seed(0)
    return Odd()
"""


def test_an_operator_that_tflite_cannot_take(project: Project) -> None:
    project.net(ODD.replace("FACTOR", "1"))
    done = project.build("{onnx: {}, tflite-fp32: {}, onnx-fp16: {}}")
    done.refused(1, "tflite-fp32  error: ", "operator STFT (layer ", "(nothing delivered)")
    done.refused(1, "leave the tflite targets out")
    assert {name: entry["verdict"]["status"] for name, entry in project.delivered().items()} == {
        "onnx": "passed",
        "onnx-fp16": "passed",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x08\x07\x12\x05hello" * 20, ["net.onnx is not an ONNX model"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS pointer"]),
        (b"def build(): ...\n", ["is text; it begins 'def build(): ...'"]),
    ],
)
def test_an_onnx_file_that_is_none(project: Project, content: bytes, words: list[str]) -> None:
    project.write("net.onnx", content)
    project.build(source="{onnx: net.onnx}").refused(1, "net.onnx", *words)
    assert project.delivered() == {}


def test_random_operators_are_no_reference(project: Project) -> None:
    project.net(
        """
class Random(Net):
    def forward(self, image):
        return super().forward(image + torch.rand_like(image))


def build():
    return Random()
"""
    )
    project.build().refused(1, "the source is not deterministic: output 'output'", "dropout")
    assert project.delivered() == {}


def test_dropout_is_off_without_a_word(project: Project) -> None:
    project.net(
        """
class Dropping(Net):
    def forward(self, image):
        return nn.functional.dropout(super().forward(image), 0.5, self.training)


def build():
    torch.manual_seed(0)
    return Dropping().train()
"""
    )
    project.build().ended(0)


# Samples


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("np.zeros((1, 3, 9, 9), np.float32)", ["has shape (1, 3, 9, 9)", "(batch, 3, 8, 8)"]),
        ("np.zeros((3, 8, 8), np.float32)", ["has shape (3, 8, 8)", "add the batch dimension"]),
        ("np.zeros((1, 3, 8, 8), np.uint8)", ["has dtype uint8, expected float32"]),
        ("np.full((1, 3, 8, 8), np.nan, np.float32)", ["is nan at (0, 0, 0, 0)", "finite"]),
        ("np.full((1, 3, 8, 8), 255, np.float32)", ["values from 255 to 255, declared -1 to 1"]),
    ],
)
def test_samples_that_do_not_fit(project: Project, sample: str, words: list[str]) -> None:
    text = f"import numpy as np\n\ndef parity():\n    return [{{'image': {sample}}}]\n"
    project.write("data.py", text)
    done = project.build(samples="{parity: data.py:parity}")
    done.refused(1, "sample 0: input 'image': ", *words)
    assert project.delivered() == {}


def test_no_sample_at_all(project: Project) -> None:
    project.write("data.py", "def parity():\n    return []\n")
    project.build(samples="{parity: data.py:parity}").refused(1, "data.py:parity gives no sample")


def test_int8_without_calibration_is_a_config_error(project: Project) -> None:
    done = project.build("{onnx: {}, onnx-int8: {}}")
    done.refused(2, "config.yaml:5:", "targets.onnx-int8: needs calibration samples")
    assert not project.out.exists()
    assert "run " not in done.said
    assert "done " not in done.said


# The gate

TWO_FACED = """
class TwoFaced(Net):
    def forward(self, image):
        result = super().forward(image)
        return result * 1.5 if torch.compiler.is_exporting() else result


def build():
    torch.manual_seed(0)
    return TwoFaced()
"""


def test_a_model_that_exports_otherwise_than_it_computes(project: Project) -> None:
    project.net(TWO_FACED)
    done = project.build("{onnx: {}, tflite-fp32: {}}")
    done.refused(4, "onnx         failed: ", "'output'", "snr_db is 6.0", "(nothing delivered)")
    assert project.delivered() == {}
    again = project.build("{onnx: {}, tflite-fp32: {}}")
    again.refused(4, "0 steps run", "snr_db is 6.0")


def test_a_failure_and_a_mismatch_together_are_a_failure(project: Project) -> None:
    project.net(ODD.replace("FACTOR", "(2 if torch.compiler.is_exporting() else 1)"))
    done = project.build("{onnx: {}, tflite-fp32: {}}")
    done.refused(1, "onnx         failed: ", "tflite-fp32  error: ")
    assert project.delivered() == {}


STUCK = """
class Stuck(Net):
    def forward(self, image):
        return super().forward(image) * 1e-30 + 1


def build():
    return Stuck()
"""


def test_unverified_is_not_delivered_unless_allowed(project: Project) -> None:
    project.net(STUCK)
    refused = project.build("{onnx: {}}")
    refused.refused(4, "unverified: the source's outputs hardly vary", "(nothing delivered)")
    assert project.delivered() == {}
    project.build("{onnx: {allow_unverified: tested by hand}}").ended(0, "unverified")
    assert project.delivered()["onnx"]["allow_unverified"] == "tested by hand"


def test_an_earlier_artifact_survives_a_build_that_fails(project: Project) -> None:
    project.build().ended(0)
    good = project.bytes()
    for code in (TWO_FACED, "def build():\n    raise ValueError('broken')\n"):
        project.net(code)
        assert project.build().code in (1, 4)
        assert project.bytes() == good
    assert project.delivered()["onnx"]["verdict"]["status"] == "passed"


# The machine


def test_a_disk_that_fills(project: Project, overlays: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 300_000):
        project.cache = _cache(disk, overlays)
        done = project.build()
        done.refused(1, "disk", "free some")
        assert project.delivered() == {}
        grow(disk, 200_000_000)
        project.build().ended(0)
        assert list(project.delivered()) == ["onnx"]


def test_an_output_disk_that_fills(project: Project, tmp_path: Path) -> None:
    project.build().ended(0)
    good = project.bytes()
    with small_disk(project.root / "full", 4096):
        project.out = project.root / "full/out"
        project.build().refused(1, "no space left on the disk", "free some")
        assert project.delivered() == {}
    assert good


def test_a_file_where_artifacts_go(project: Project) -> None:
    project.out.write_text("mine")
    done = project.build()
    done.refused(2, "cannot write", "out")
    assert project.out.read_text() == "mine"


def test_a_file_where_the_artifact_goes(project: Project) -> None:
    there = project.out / "tiny/1.0.0/onnx"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    project.build().refused(2, "cannot write", "onnx", "a file of that name is in the way")
    assert there.read_text() == "mine"


def test_an_output_directory_that_is_read_only(project: Project) -> None:
    with small_disk(project.out, 4096):
        subprocess.run(["mount", "-o", "remount,ro", project.out], check=True)
        project.build().refused(2, "cannot write", "Read-only file system")


def test_a_model_that_eats_memory(project: Project) -> None:
    project.net("def build():\n    hoard = bytearray(2**30)\n    hoard[:] = b'x' * 2**30\n")
    done = project.build(limits="{memory: 700MiB}")
    done.refused(1, "[memory]", "over its limit of 0.68 GiB", "limits: memory")
    assert project.delivered() == {}


def test_a_model_that_hangs(project: Project) -> None:
    project.net("def build():\n    time.sleep(600)\n")
    started = time.monotonic()
    done = project.build(limits="{timeout: 3}")
    done.refused(1, "[timeout]", "did not end within 3 s", "in build", "limits: timeout")
    assert time.monotonic() - started < 60


def test_a_model_that_crashes(project: Project) -> None:
    project.net("def build():\n    import ctypes\n    ctypes.string_at(0)\n")
    project.build().refused(1, "[signal]", "died of SIGSEGV", "in build")
    assert project.delivered() == {}


# Interrupted, and together


def test_ctrl_c_leaves_nothing_behind(project: Project, overlays: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    project.cache = _cache(fresh, overlays)
    project.net(
        "whole = build\n\n\ndef build():\n"
        "    print('building', flush=True)\n    time.sleep(2)\n    return whole()\n"
    )
    config = project.config("{onnx: {}, onnx-fp16: {}}")
    process = project.start("build", config, "--out", project.out, "-v")
    assert process.stdout is not None
    while "run     " not in (line := process.stdout.readline()):
        assert line, "it ended"
    time.sleep(2.5)
    os.killpg(process.pid, signal.SIGINT)
    done = project.end(process)
    done.refused(130, "interrupted")
    assert project.processes() == []
    assert project.delivered() == {}
    assert list((fresh / "tmp").iterdir()) == []
    again = project.run("build", config, "--out", project.out)
    again.ended(0)
    assert set(project.delivered()) == {"onnx", "onnx-fp16"}


def test_two_builds_at_once(project: Project, overlays: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    project.build("{onnx: {}, onnx-fp16: {}}").ended(0)
    expected, project.out = project.bytes(), project.root / "both"
    project.cache = _cache(fresh, overlays)
    words = ("build", project.config("{onnx: {}, onnx-fp16: {}}"), "--out", project.out)
    for process in [project.start(*words), project.start(*words)]:
        project.end(process).ended(0)
    assert set(project.delivered()) == {"onnx", "onnx-fp16"}
    assert project.bytes() == expected
    project.run(*words).ended(0, "0 steps run")
