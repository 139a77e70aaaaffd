"""Operators whose inputs are all known, computed as the model is converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import NodeProto, OperatorSetIdProto

LARGEST = 2**26
"""Elements of a result that is still stored in the model rather than computed by it."""

RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
          "Multinomial")  # fmt: skip


def folded(
    proto: NodeProto, operands: Sequence[Any], opsets: Sequence[OperatorSetIdProto]
) -> tuple[Any, ...] | None:
    """The results, as numpy arrays; None where an operand is not known, or ONNX's reference
    implementation does not have the operator.
    """
    if proto.op_type in RANDOM or any(attribute.HasField("g") for attribute in proto.attribute):
        return None
    if not all(one is None or isinstance(one, np.ndarray) for one in operands):
        return None
    results = _computed(proto, operands, opsets)
    if results is None or sum(one.size for one in results) > LARGEST:
        return None
    return results


def _computed(
    proto: NodeProto, operands: Sequence[Any], opsets: Sequence[OperatorSetIdProto]
) -> tuple[Any, ...] | None:
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    fed = {
        name: array
        for name, array in zip(proto.input, operands, strict=True)
        if name and array is not None
    }
    graph = helper.make_graph(
        [proto],
        "folded",
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in fed],
        [
            helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)
            for name in proto.output
            if name
        ],
    )
    model = helper.make_model(graph, opset_imports=list(opsets))
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, fed)
    except Exception:  # noqa: BLE001 - whatever it fails at, the operator is lowered instead
        return None
    results = iter(found)
    return tuple(np.asarray(next(results)) if name else np.empty(0) for name in proto.output)
