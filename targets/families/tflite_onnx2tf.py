"""What onnx2tf must not do: guesses that hold for some models, and break others without a word."""

from __future__ import annotations

import functools
from typing import Any

from crosscast.targets.families.tflite_rewrites_math import NEAR

HELD = "HELD_"
"""Before the name of an operator that a pass is to leave."""


def leave_alone() -> None:
    """Switch the guesses off, for all conversions of this process. Repeatable."""
    _leave_padding()
    _leave_windows()
    _leave_bounds()
    _leave_outer_products()


def _leave_padding() -> None:
    """Switch off onnx2tf's guard for batches of no element.

    It puts eight operators, one of them over the whole tensor, around each padding of a model
    with a dynamic batch, and a batch is never empty here.
    """
    from onnx2tf.tflite_builder.op_builders import pad_utils, shape

    for module in (pad_utils, shape):
        module.prepare_zero_safe_batch_pad = lambda **_: None


def _leave_windows() -> None:
    """Switch off onnx2tf's padding of inputs that are smaller than a pooling's window.

    It takes a dynamic size for 1, and no input is smaller than the window.
    """
    from onnx2tf.tflite_builder.op_builders import pool

    pool._calc_min_valid_window_deficit_pads_2d = lambda **_: [0, 0, 0, 0]


def _leave_bounds() -> None:
    """Have onnx2tf take a bound for 0 or 1 only where it is that to the last bit.

    It makes RELU of a maximum with anything within 1e-6 of 0, and RELU_0_TO_1 of bounds that near
    0 and 1: a norm of 0 is then divided by, and a logit becomes infinite.
    """
    from onnx2tf.tflite_builder.core.model_ir_utils import _read_singleton_constant_float
    from onnx2tf.tflite_builder.passes import graph_cleanup

    def read(*where: Any) -> float | None:
        value: float | None = _read_singleton_constant_float(*where)
        is_near = value is not None and 0 < abs(value - round(value)) < NEAR
        return None if is_near else value

    graph_cleanup._read_singleton_constant_float = read


def _leave_outer_products() -> None:
    """Have onnx2tf keep operators whose inputs broadcast to their output as they are.

    It takes [n, 1, 1, k] and [n, 1, k, 1], of which masks of attention are made, for one tensor in
    two layouts, and transposes one of them.
    """
    from onnx2tf.tflite_builder.passes import binary_layout_adapter as adapter

    name = "repair_rank4_binary_layout_mismatch_with_transpose_adapter"
    plain = getattr(adapter, name)
    if hasattr(plain, "__wrapped__"):
        return

    @functools.wraps(plain)
    def repair(model_ir: Any, **settings: Any) -> Any:
        held = [each for each in model_ir.operators if _broadcasts(model_ir, each)]
        for each in held:
            each.op_type = f"{HELD}{each.op_type}"
        try:
            return plain(model_ir, **settings)
        finally:
            for each in held:
                each.op_type = each.op_type.removeprefix(HELD)

    setattr(adapter, name, repair)


def _broadcasts(model_ir: Any, operator: Any) -> bool:
    """Whether two inputs of an operator broadcast to the output, which has the shape of neither."""
    import numpy as np

    names = [*operator.inputs, *operator.outputs]
    if len(operator.inputs) != 2 or len(names) != 3:
        return False
    tensors = [model_ir.tensors.get(str(name)) for name in names]
    if any(tensor is None for tensor in tensors):
        return False
    one, other, output = (tuple(map(int, tensor.shape)) for tensor in tensors)
    try:
        return output not in (one, other) and np.broadcast_shapes(one, other) == output
    except ValueError:
        return False
