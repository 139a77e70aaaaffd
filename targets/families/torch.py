"""What steps that export or read PyTorch programs have in common."""

from __future__ import annotations

# What exporting imports on the way, of torch's own accord: 2 s that every step would pay.
PRELOAD = (
    "numpy",
    "safetensors.torch",
    "torch",
    "torch._dynamo",
    "torch._export.serde.serialize",
    "torch._functorch.aot_autograd",
    "torch._inductor.compiler_bisector",
    "torch._inductor.fx_passes.dedupe_symint_uses",
    "torch._inductor.loop_body",
    "torch._inductor.sizevars",
    "torch._subclasses.schema_check_mode",
    "torch.export._trace",
    "torch.export.pt2_archive._package",
    "torch.fx.experimental.validator",
    "torch.jit",
    "torch.onnx",
    "torch.onnx._internal.exporter._compat",
    "torch.onnx._internal.exporter._torchlib.ops",
    "torch.onnx._internal.torchscript_exporter.utils",
    "torch.onnx._internal.fx.passes.type_promotion",
    "torch.utils.serialization",
    "networkx",
    "onnx",
    "onnxscript",
    "onnxscript._framework_apis.torch_2_11",
    "onnxscript.function_libs.torch_lib.ops",
    "onnxscript.optimizer",
    "onnxscript.rewriter",
    "sympy",
    "sympy.combinatorics",
    "sympy.tensor.tensor",
)
