"""ONNX in static int8 (QuantizeLinear / DequantizeLinear), run by ONNX Runtime."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_int8, onnx_norms, onnx_runtime, onnx_taps, onnx_usage
from crosscast.targets.families.repair import RepairOptions


class Options(family.OnnxOptions, RepairOptions):
    """Options of the file."""


QuantizeOptions: type[BaseOptions] | None = onnx_int8.StaticOptions
summary = "ONNX, static int8 (QDQ), fp32 inputs and outputs; needs calibration samples"
format: Kind = "onnx"
precision_asked: Delivered = "int8"
accepts: tuple[Kind, ...] = ("onnx",)
toolchain = runtime = family.ONNX
quantizer: Toolchain | None = family.ONNX
quantize = onnx_int8.quantize
finishing = ("on_mismatch",)
calibrated = True
no_runtime = ""
convert = onnx_norms.convert
open = onnx_runtime.open
taps = onnx_taps.taps
precision = onnx_runtime.precision
weights = onnx_runtime.weights
usage = onnx_usage.usage
