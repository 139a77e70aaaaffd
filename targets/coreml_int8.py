"""Core ML ML Program with weights in int8 or palettes of 6 or 8 bits."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import coreml as family
from crosscast.targets.families import (
    coreml_audit,
    coreml_convert,
    coreml_quantize,
    coreml_taps,
    coreml_usage,
)

Options: type[BaseOptions] = family.ComputeOptions
QuantizeOptions: type[BaseOptions] | None = coreml_quantize.Int8Options
summary = "Core ML ML Program, int8 weights (linear, or palettes of 6 or 8 bits), fp16 inside"
format: Kind = "coreml"
precision_asked: Delivered = "int8"
accepts: tuple[Kind, ...] = family.ACCEPTS
toolchain = family.CONVERTERS
runtime = family.COREML
narrowed = family.NARROWED
computes: Delivered = "fp16"
quantizer: Toolchain | None = family.COMPRESSING
quantize = coreml_quantize.to_int8
calibrated: bool | None = None
no_runtime = ""
convert = coreml_convert.to_quantize
open = family.open
taps = coreml_taps.taps
explain = family.explain
precision = coreml_audit.precision
weights = coreml_audit.weights
usage = coreml_usage.usage
