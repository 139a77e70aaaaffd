"""All operators, and which function an opset has for one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from crosscast.pipeline.errors import Unproven
from crosscast.targets.families.mil.ops import (
    activation,
    constexpr,
    control,
    conv,
    detection,
    elementwise,
    image,
    linear,
    normalization,
    quantization,
    recurrent,
    reduction,
    scatter_gather,
    tensor_operation,
    tensor_transformation,
)
from crosscast.targets.families.mil.ops.arguments import Op, Signature, Since

TOPICS = (
    activation, constexpr, control, conv, detection, elementwise, image, linear, normalization,
    quantization, recurrent, reduction, scatter_gather, tensor_operation, tensor_transformation,
)  # fmt: skip

OPS: Mapping[str, Op | Since] = {
    name: entry for topic in TOPICS for name, entry in topic.OPS.items()
}


@cache
def operator(name: str, opset: int) -> Signature:
    """The function of an operator in an opset, by its iOS. Raises Unproven where there is none."""
    entry = OPS.get(name)
    if entry is None:
        raise Unproven(f"evaluator has no {name}")
    if isinstance(entry, Mapping):
        entry = entry[max(since for since in entry if since <= opset)]
    return Signature(name, entry)
