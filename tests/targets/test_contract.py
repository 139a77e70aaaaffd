"""One contract, over every target."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from crosscast.pipeline.stages import function, reference_to
from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets import TARGETS
from crosscast.targets.base import (
    Delivered,
    Kind,
    Target,
    described,
    judged,
    tapping,
    toolchains,
    tried,
)
from crosscast.targets.base import Options as BaseOptions

FRAMEWORKS = (
    "ai_edge_litert",
    "ai_edge_quantizer",
    "coremltools",
    "onnx",
    "onnx2tf",
    "onnxruntime",
    "onnxslim",
    "tensorflow",
    "torch",
)
MAIN_FILE = {
    "onnx": "model.onnx",
    "ort": "model.ort",
    "tflite": "model.tflite",
    "coreml": "model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
}
PARAMETERS = {
    "convert": ["model", "options", "out"],
    "quantize": ["model", "options", "samples", "out"],
    "open": ["artifact"],
    "precision": ["artifact"],
    "usage": ["manifest"],
}
every_target = pytest.mark.parametrize("name", TARGETS)


def manifest(target: Target) -> dict[str, Any]:
    """What a package of the target would say, with names that need care."""
    return {
        "model": "net",
        "version": "1.2.3",
        "target": "it",
        "files": [{"path": MAIN_FILE[target.format]}, {"path": "vectors.safetensors"}],
        "inputs": [
            {"name": "image", "shape": ["batch", 3, 8, 8], "dtype": "float32", "layout": "nchw"},
            {"name": "token ids", "shape": [1, "length"], "dtype": "int64", "layout": None},
        ],
        "outputs": [{"name": "logits", "shape": ["batch", 10], "dtype": "float32", "layout": None}],
    }


def test_names() -> None:
    assert list(TARGETS) == [
        "onnx",
        "onnx-fp16",
        "onnx-int8",
        "onnx-int8-dynamic",
        "onnx-int4",
        "ort",
        "tflite-fp32",
        "tflite-fp16",
        "tflite-int8",
        "tflite-int8-dynamic",
        "coreml-fp32",
        "coreml-fp16",
        "coreml-int8",
        "coreml-int4",
    ]


def test_import_brings_no_framework() -> None:
    code = "import sys, crosscast.targets; print('\\n'.join(m.split('.')[0] for m in sys.modules))"
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(listed) & set(FRAMEWORKS)


@every_target
def test_members(name: str) -> None:
    target = TARGETS[name]
    assert target.summary
    assert "\n" not in target.summary
    assert target.format in get_args(Kind)
    assert target.precision_asked in (None, *get_args(Delivered))
    assert target.accepts
    assert set(target.accepts) <= set(get_args(Kind))
    assert isinstance(target.no_runtime, str)
    assert (target.quantizer is None) == (target.quantize is None)
    assert (target.QuantizeOptions is None) == (target.quantize is None)
    assert target.quantize or not target.calibrated


@every_target
def test_toolchains(name: str) -> None:
    target = TARGETS[name]
    assert list(toolchains(target)) == list(target.accepts)
    for toolchain in (*toolchains(target).values(), target.quantizer, target.runtime):
        if toolchain is None:
            continue
        assert isinstance(toolchain, Toolchain)
        assert toolchain.name
        assert toolchain.distributions
        assert toolchain.extra
        assert toolchain.overlay is None or toolchain.overlay.is_file()


@every_target
def test_functions_have_the_parameters_of_the_protocol_by_keyword(name: str) -> None:
    for member, wanted in PARAMETERS.items():
        implementation = getattr(TARGETS[name], member)
        if implementation is None:
            continue
        parameters = inspect.signature(implementation).parameters.values()
        optional = ["samples"] if member == "convert" and tried(TARGETS[name]) else []
        optional += ["about"] if member == "convert" and described(TARGETS[name]) else []
        optional += ["parity"] if member == "quantize" and judged(TARGETS[name]) else []
        assert [parameter.name for parameter in parameters] == [*wanted, *optional]
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)


@every_target
def test_functions_are_found_by_reference(name: str) -> None:
    for member in PARAMETERS:
        implementation = getattr(TARGETS[name], member)
        if implementation is not None:
            assert function(reference_to(implementation)) is implementation


@every_target
def test_options_are_frozen_closed_and_described(name: str) -> None:
    target = TARGETS[name]
    for options in (target.Options, target.QuantizeOptions):
        if options is None:
            continue
        assert issubclass(options, BaseOptions)
        assert options.model_config["frozen"]
        for key, field in options.model_fields.items():
            assert field.description, f"{name}: {key} has no description"
            assert not field.is_required(), f"{name}: {key} has no default"
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            options.model_validate({"no_such_key": 1})


@every_target
def test_usage_has_one_python_block_and_names_every_tensor(name: str) -> None:
    target = TARGETS[name]
    described = manifest(target)
    text = target.usage(manifest=described)
    assert len(re.findall(r"^```python$", text, re.MULTILINE)) == 1
    assert text.count("```") % 2 == 0
    for tensor in described["inputs"] + described["outputs"]:
        assert tensor["name"] in text
    block = text.split("```python\n")[1].split("```")[0]
    compile(block, "USAGE.md", "exec")
    assert described["files"][0]["path"].split("/")[0] in block


@every_target
def test_a_target_shows_what_it_computes_where_its_format_lets_it(name: str) -> None:
    taps = tapping(TARGETS[name])
    assert (taps is None) == (TARGETS[name].format == "ort")
    if taps is not None:
        assert list(inspect.signature(taps).parameters) == ["artifact", "inputs", "tell"]
        assert function(reference_to(taps)) is taps
