"""TFLite in fp32, run by LiteRT."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import tflite as family
from crosscast.targets.families import tflite_runtime, tflite_taps, tflite_usage

Options = BaseOptions
QuantizeOptions: type[BaseOptions] | None = None
summary = "TFLite (LiteRT), fp32"
format: Kind = "tflite"
precision_asked: Delivered = "fp32"
accepts: tuple[Kind, ...] = ("tflite", "saved_model", "onnx")
toolchain = family.CONVERTERS
quantizer: Toolchain | None = None
runtime = family.LITERT
quantize = None
calibrated = False
no_runtime = ""
convert = family.convert
open = tflite_runtime.open
taps = tflite_taps.taps
precision = tflite_runtime.precision
usage = tflite_usage.usage
