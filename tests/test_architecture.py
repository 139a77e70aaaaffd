"""The shape of the house: who may import whom, and what the light commands load."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FRAMEWORKS = ("torch", "tensorflow", "coremltools", "onnxruntime", "onnx", "numpy")

# Lower layers first; a module may import its own layer and lower ones.
LAYERS = (
    ("pipeline.errors", "pipeline.signature", "pipeline.toolchain", "pipeline.digest"),
    ("pipeline.graph", "pipeline.events", "pipeline.staging", "pipeline.manifest", "pipeline.web"),
    ("pipeline.store", "pipeline.preprocess", "pipeline.parity", "pipeline.worker.usercode"),
    ("targets", "pipeline.sources", "pipeline.stages"),
    ("pipeline.config", "pipeline.fingerprint", "pipeline.worker", "pipeline.executors"),
    ("pipeline.planner", "pipeline.fetch", "pipeline.repro", "pipeline.ledger"),
    ("pipeline.runner", "pipeline.report", "pipeline.doctor"),
    ("pipeline.build", "pipeline.init", "pipeline.release"),
    ("pipeline.schedule",),
    ("pipeline.cli",),
)
TARGETS_MAY_IMPORT = (
    "targets",
    "pipeline.errors",
    "pipeline.signature",
    "pipeline.toolchain",
    "pipeline.parity",
)


def modules() -> list[Path]:
    return sorted(path for top in ("pipeline", "targets") for path in (ROOT / top).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crosscast."):
            base = str(node.module).removeprefix("crosscast.")
            for alias in node.names:
                inner = ROOT.joinpath(*base.split("."), f"{alias.name}.py")
                yield f"{base}.{alias.name}" if inner.exists() else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("crosscast."):
                    yield alias.name.removeprefix("crosscast.")


def layer(module: str) -> int:
    found = {
        len(prefix): index
        for index, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if module == prefix or module.startswith(f"{prefix}.")
    }
    return found[max(found)]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    module = name_of(path)
    if module == "pipeline":
        return
    wrong = [
        needed
        for needed in imports_of(path)
        if needed not in ("pipeline",) and layer(needed) > layer(module)
    ]
    assert not wrong, f"{module} imports {wrong} from above"


@pytest.mark.parametrize("path", sorted((ROOT / "targets").rglob("*.py")), ids=name_of)
def test_targets_know_nothing_of_the_engine(path: Path) -> None:
    wrong = [name for name in imports_of(path) if not name.startswith(TARGETS_MAY_IMPORT)]
    assert not wrong


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = {
        f"crosscast.{'.'.join(path.parent.relative_to(ROOT).parts)}"
        for path in modules()
        if path.name == "__init__.py"
    }
    assert found == set(settings["tool"]["setuptools"]["packages"])


def test_the_top_level_is_as_designed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    top = {name.split("/")[0] for name in listed if not name.startswith(".")}
    assert top <= {
        "pyproject.toml",
        "README.md",
        "pipeline",
        "configs",
        "docs",
        "targets",
        "tests",
        "artifacts",
        "benchmarks",
        "Makefile",
        "CHANGELOG.md",
        "LICENSE",
    }


def registry(root: Path) -> Path:
    """A registry with a release of `m`."""
    sys.path.insert(0, str(ROOT / "tests/pipeline/release"))
    import shipped

    from crosscast.pipeline.release.registries.directory import Directory

    release = shipped.made(root / "built", targets=("tflite-int8",))
    shipped.publish(Directory(root / "shelf"), root / "built", release)
    return root / "shelf"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["check", "CONFIG"], ["plan", "CONFIG"], ["targets"], ["doctor"]),
        *(["releases", "m"], ["keygen", "-o", "KEYS"], ["devices"]),
        ["pull", "RELEASE", "--device", "pixel-8", "--dry-run"],
        *(["schedule", *words, "CONFIG"] for words in (["status"], ["run", "--once"])),
    ],
    ids=lambda arguments: arguments[0],
)
def test_light_commands_import_no_framework(arguments: list[str], tmp_path: Path) -> None:
    config = tmp_path / "model.yaml"
    (tmp_path / "net.py").write_text("def build():\n    raise RuntimeError\n")
    config.write_text(
        "model: m\nversion: 1.0.0\nsource: {torch: net.py:build}\n"
        "inputs: {x: {shape: [batch, 3], dtype: float32}}\n"
        "targets: {onnx: {}, tflite-fp32: {}, coreml-fp16: {allow_unverified: x}}\n"
        "release: {schedule: 0 3 * * *}\n"
    )
    paths = {"CONFIG": str(config), "KEYS": str(tmp_path / "keys")}
    paths["RELEASE"] = f"{registry(tmp_path)}/m"
    words = [paths.get(word, word) for word in arguments]
    code = (
        "import sys\n"
        "from crosscast.pipeline.cli import run\n"
        f"code = run({words!r})\n"
        f"loaded = [name for name in {FRAMEWORKS!r} if name in sys.modules]\n"
        "sys.exit(code or (f'loaded: {loaded}' if loaded else 0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "CROSSCAST_CACHE": str(tmp_path / "cache")},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
