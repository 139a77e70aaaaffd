"""ONNX in fp16 with fp32 inputs and outputs, run by ONNX Runtime."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_float16, onnx_runtime, onnx_taps, onnx_usage

Options: type[BaseOptions] = onnx_float16.Float16Options
QuantizeOptions: type[BaseOptions] | None = None
summary = "ONNX, fp16 inside, fp32 inputs and outputs"
format: Kind = "onnx"
precision_asked: Delivered = "fp16"
accepts: tuple[Kind, ...] = ("onnx",)
toolchain = runtime = family.ONNX
quantizer: Toolchain | None = None
quantize = None
calibrated = False
no_runtime = ""
convert = onnx_float16.convert
open = onnx_runtime.open
taps = onnx_taps.taps
precision = onnx_runtime.precision
usage = onnx_usage.usage
