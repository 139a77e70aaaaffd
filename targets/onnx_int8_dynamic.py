"""ONNX in dynamic int8, run by ONNX Runtime."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_dynamic, onnx_norms, onnx_runtime, onnx_taps, onnx_usage

Options: type[BaseOptions] = family.OnnxOptions
QuantizeOptions: type[BaseOptions] | None = onnx_dynamic.DynamicOptions
summary = "ONNX, int8 weights, ranges found at run time; needs no samples"
format: Kind = "onnx"
precision_asked: Delivered = "int8"
accepts: tuple[Kind, ...] = ("onnx",)
toolchain = runtime = family.ONNX
quantizer: Toolchain | None = family.ONNX
quantize = onnx_dynamic.quantize
calibrated: bool | None = None
no_runtime = ""
convert = onnx_norms.convert
open = onnx_runtime.open
taps = onnx_taps.taps
precision = onnx_runtime.precision
weights = onnx_runtime.weights
usage = onnx_usage.usage
