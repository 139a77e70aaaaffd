"""The .ort format of ONNX Runtime's mobile builds, in the precision of what it is made from."""

from __future__ import annotations

from dataclasses import replace

from crosscast.pipeline.toolchain import Toolchain
from crosscast.targets.base import Delivered, Kind
from crosscast.targets.base import Options as BaseOptions
from crosscast.targets.families import onnx as family
from crosscast.targets.families import onnx_ort, onnx_usage

Options: type[BaseOptions] = onnx_ort.OrtOptions
QuantizeOptions: type[BaseOptions] | None = None
summary = "ORT format for ONNX Runtime's mobile builds, of the target that `from` names"
format: Kind = "ort"
precision_asked: Delivered | None = None
accepts: tuple[Kind, ...] = ("onnx",)
toolchain = replace(
    family.ONNX, name="ort", distributions=(*family.ONNX.distributions, "flatbuffers")
)
runtime = family.ONNX
quantizer: Toolchain | None = None
quantize = None
calibrated = False
no_runtime = ""
convert = onnx_ort.convert
open = onnx_ort.open
precision = onnx_ort.precision
usage = onnx_usage.usage
