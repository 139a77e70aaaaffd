"""TFLite with int8 weights and activations in fp32, run by LiteRT."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import tflite as family
from crosscast.targets.families import tflite_hybrid, tflite_runtime, tflite_taps, tflite_usage

Options = BaseOptions
QuantizeOptions: type[BaseOptions] | None = BaseOptions
summary = "TFLite (LiteRT), int8 weights, fp32 inputs and outputs; needs no samples"
format: Kind = "tflite"
precision_asked: Delivered = "int8"
accepts: tuple[Kind, ...] = ("tflite", "saved_model", "onnx")
toolchain = family.CONVERTERS
quantizer: Toolchain | None = family.LITERT
runtime = family.LITERT
quantize = tflite_hybrid.to_int8
calibrated: bool | None = None
no_runtime = ""
convert = family.convert
open = tflite_runtime.open
taps = tflite_taps.taps
precision = tflite_runtime.precision
weights = tflite_runtime.weights
usage = tflite_usage.usage
