"""The table of sources, and what each says without its framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crosscast.pipeline.sources import SOURCES, open_source

MEMBERS = ("toolchain", "kinds", "files", "signature", "load", "export", "dependencies")


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_has_the_members_of_the_protocol(kind: str) -> None:
    source = open_source({"kind": kind})
    assert all(hasattr(source, member) for member in MEMBERS)
    assert source.kinds
    assert "onnx" in source.kinds


def test_torch_declares_its_factory_and_weights() -> None:
    source = open_source({"kind": "torch"})
    options = {"kind": "torch", "factory": "/a/net.py:build", "weights": "/a/w.pth"}
    assert source.files(options) == {"factory": Path("/a/net.py"), "weights": Path("/a/w.pth")}
    assert source.files(options | {"weights": None}) == {"factory": Path("/a/net.py")}


def test_onnx_declares_its_model() -> None:
    options = {"kind": "onnx", "model": "/a/m.onnx"}
    assert open_source(options).files(options) == {"model": Path("/a/m.onnx")}


def test_sources_import_no_framework() -> None:
    code = (
        "import sys\n"
        "from crosscast.pipeline.sources import SOURCES, open_source\n"
        "[open_source({'kind': kind}) for kind in SOURCES]\n"
        "frameworks = {'torch', 'onnx', 'onnxruntime', 'safetensors'}\n"
        "assert not frameworks & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
