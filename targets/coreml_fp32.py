"""Core ML ML Program in fp32."""

from __future__ import annotations

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import coreml as family
from crosscast.targets.families import coreml_audit, coreml_convert, coreml_taps, coreml_usage

Options: type[BaseOptions] = family.CoreMLOptions
QuantizeOptions: type[BaseOptions] | None = None
summary = "Core ML ML Program, fp32, for the CPUs and GPUs of iOS and macOS"
format: Kind = "coreml"
precision_asked: Delivered = "fp32"
accepts: tuple[Kind, ...] = family.ACCEPTS
toolchain = family.CONVERTERS
runtime = family.COREML
narrowed = family.NARROWED
quantizer: Toolchain | None = None
quantize = None
calibrated = False
no_runtime = ""
convert = coreml_convert.convert_whole
open = family.open
taps = coreml_taps.taps
precision = coreml_audit.precision
usage = coreml_usage.usage
