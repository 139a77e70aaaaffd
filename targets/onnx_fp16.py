"""ONNX in fp16 with fp32 inputs and outputs, run by ONNX Runtime."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import onnx as family
from crosscast.targets.families import (
    onnx_float16,
    onnx_norms,
    onnx_runtime,
    onnx_taps,
    onnx_usage,
)

Options: type[BaseOptions] = onnx_float16.Float16Options
QuantizeOptions: type[BaseOptions] | None = BaseOptions
summary = "ONNX, fp16 inside, fp32 inputs and outputs"
format: Kind = "onnx"
precision_asked: Delivered = "fp16"
accepts: tuple[Kind, ...] = ("onnx",)
toolchain = runtime = family.ONNX
quantizer: Toolchain | None = family.ONNX
quantize = onnx_float16.quantize
finishing = ("io", "compute", "on_mismatch")
calibrated: bool | None = None
no_runtime = ""
convert = onnx_norms.convert
open = onnx_runtime.open
taps = onnx_taps.taps
precision = onnx_runtime.precision
usage = onnx_usage.usage
