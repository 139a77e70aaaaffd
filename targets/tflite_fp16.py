"""TFLite with fp16 weights and fp32 inputs, outputs and arithmetic, run by LiteRT."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import tflite as family
from crosscast.targets.families import tflite_float16, tflite_runtime, tflite_taps, tflite_usage

Options = BaseOptions
QuantizeOptions: type[BaseOptions] | None = BaseOptions
summary = "TFLite (LiteRT), fp16 weights, fp32 inputs and outputs"
format: Kind = "tflite"
precision_asked: Delivered = "fp16"
accepts: tuple[Kind, ...] = ("tflite", "saved_model", "onnx")
toolchain = family.CONVERTERS
quantizer: Toolchain | None = family.LITERT
runtime = family.LITERT
quantize = tflite_float16.to_float16
calibrated = False
no_runtime = ""
convert = family.convert
open = tflite_runtime.open
taps = tflite_taps.taps
precision = tflite_runtime.precision
usage = tflite_usage.usage
