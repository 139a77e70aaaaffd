"""ONNX in fp32, run by ONNX Runtime."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_norms, onnx_runtime, onnx_taps, onnx_usage

Options: type[BaseOptions] = family.OnnxOptions
QuantizeOptions: type[BaseOptions] | None = None
summary = "ONNX, fp32, for ONNX Runtime anywhere"
format: Kind = "onnx"
precision_asked: Delivered = "fp32"
accepts: tuple[Kind, ...] = ("onnx",)
toolchain = runtime = family.ONNX
quantizer: Toolchain | None = None
quantize = None
calibrated = False
no_runtime = ""
convert = onnx_norms.convert
open = onnx_runtime.open
taps = onnx_taps.taps
precision = onnx_runtime.precision
usage = onnx_usage.usage
