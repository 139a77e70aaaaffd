from __future__ import annotations

from pathlib import Path

from crosscast.pipeline.doctor import TargetHealth, ToolchainHealth
from crosscast.pipeline.report.health import describe
from crosscast.pipeline.toolchain import Toolchain


def test_findings_as_text() -> None:
    lite = Toolchain(name="litert", distributions=("lite", "numpy"), extra="tflite")
    tool = Toolchain(name="tool", distributions=("numpy",), extra="tflite", overlay=Path("x.lock"))
    text = describe(
        [
            ToolchainHealth(toolchain=lite, versions={"lite": None, "numpy": "2.0"}, overlay=""),
            ToolchainHealth(toolchain=tool, versions={"numpy": "2.0"}, overlay="not built"),
            ToolchainHealth(toolchain=tool, versions={"numpy": "2.0"}, overlay="built"),
        ],
        [
            TargetHealth(target="onnx", summary="", builds=True, runs=True, needs=""),
            TargetHealth(target="tflite", summary="", builds=False, runs=False, needs="pip it"),
        ],
    )
    assert text.splitlines() == [
        "toolchains",
        "  litert             lite MISSING, numpy 2.0",
        "                     fix: pip install 'crosscast[tflite]'",
        "  tool               numpy 2.0",
        "                     overlay not built: the first build, or --build-overlays, does",
        "  tool               numpy 2.0",
        "                     overlay built",
        "targets",
        "  onnx           builds: yes  runs: yes ",
        "  tflite         builds: no   runs: no    (pip it)",
    ]
