"""ONNX with int4 weights, run by ONNX Runtime."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_int4, onnx_norms, onnx_runtime, onnx_taps, onnx_usage

Options: type[BaseOptions] = family.OnnxOptions
QuantizeOptions: type[BaseOptions] | None = onnx_int4.Int4Options
summary = "ONNX, weights of matrix products and embeddings in int4, by blocks"
format: Kind = "onnx"
precision_asked: Delivered = "int4"
accepts: tuple[Kind, ...] = ("onnx",)
toolchain = runtime = family.ONNX
quantizer: Toolchain | None = family.ONNX
quantize = onnx_int4.quantize
calibrated = False
no_runtime = ""
convert = onnx_norms.convert
open = onnx_runtime.open
taps = onnx_taps.taps
precision = onnx_runtime.precision
weights = onnx_runtime.weights
usage = onnx_usage.usage
