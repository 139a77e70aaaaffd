"""TFLite in static int8 with fp32 inputs and outputs, run by LiteRT."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import tflite as family
from crosscast.targets.families import (
    tflite_integer,
    tflite_quantize,
    tflite_runtime,
    tflite_taps,
    tflite_usage,
)
from crosscast.targets.families.repair import RepairOptions


class Options(RepairOptions):
    """Options of the file."""

    io: tflite_integer.IntegerIO | None = Field(
        default=None,
        description="dtype of float inputs and outputs, for microcontrollers: every operator then "
        "computes in int8. Default: they stay float32, as do operators that lose much in int8.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Options:
        if self.io and "on_mismatch" in self.model_fields_set and self.on_mismatch != "fail":
            raise PydanticCustomError(
                "value_error",
                "with 'io' every operator computes in int8, and 'on_mismatch: keep-float' keeps "
                "some in float: leave one of them out",
            )
        return self


QuantizeOptions: type[BaseOptions] | None = tflite_quantize.StaticOptions
summary = "TFLite (LiteRT), static int8, fp32 inputs and outputs; needs calibration samples"
format: Kind = "tflite"
precision_asked: Delivered = "int8"
accepts: tuple[Kind, ...] = ("tflite", "saved_model", "onnx")
toolchain = family.CONVERTERS
quantizer: Toolchain | None = family.QUANTIZER
runtime = family.LITERT
quantize = tflite_quantize.to_int8
finishing = ("io", "on_mismatch")
calibrated = True
no_runtime = ""
convert = family.convert
open = tflite_runtime.open
taps = tflite_taps.taps
precision = tflite_runtime.precision
weights = tflite_runtime.weights
usage = tflite_usage.usage
