"""Deployment targets: one module each, in one dict written by hand."""

from __future__ import annotations

from collections.abc import Mapping

from crosscast.targets import (
    coreml_fp16,
    coreml_fp32,
    coreml_int4,
    coreml_int8,
    onnx,
    onnx_fp16,
    onnx_int4,
    onnx_int8,
    onnx_int8_dynamic,
    ort,
    tflite_fp16,
    tflite_fp32,
    tflite_int8,
    tflite_int8_dynamic,
)
from crosscast.targets.base import Target

TARGETS: Mapping[str, Target] = {
    "onnx": onnx,
    "onnx-fp16": onnx_fp16,
    "onnx-int8": onnx_int8,
    "onnx-int8-dynamic": onnx_int8_dynamic,
    "onnx-int4": onnx_int4,
    "ort": ort,
    "tflite-fp32": tflite_fp32,
    "tflite-fp16": tflite_fp16,
    "tflite-int8": tflite_int8,
    "tflite-int8-dynamic": tflite_int8_dynamic,
    "coreml-fp32": coreml_fp32,
    "coreml-fp16": coreml_fp16,
    "coreml-int8": coreml_int8,
    "coreml-int4": coreml_int4,
}
