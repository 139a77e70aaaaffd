"""The greatest and the least."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import axis_of, rank, size


def top(node: Node) -> tuple[Operand, ...]:
    """TopK: values and indices, sorted whether or not that is asked for."""
    x, count = node.x(0), node.ints(1, "number")[0]
    node.ignore("sorted")
    if count < 1:
        raise node.refused("of no elements")
    return tuple(
        node.mb.topk(
            x=x,
            k=count,
            axis=axis_of(node, node.attribute("axis", -1), rank(x)),
            ascending=not node.attribute("largest", 1),
        )
    )


def extreme(name: str) -> Operator:
    """ArgMax or ArgMin; the last of equals is the first from the other end."""

    def lowered(node: Node) -> Operand:
        x, keep = node.x(), bool(node.attribute("keepdims", 1))
        axis = axis_of(node, node.attribute("axis", 0), rank(x))
        last = node.attribute("select_last_index", 0)
        if last:
            x = node.mb.reverse(x=x, axes=[axis])
        found = getattr(node.mb, name)(x=x, axis=axis, keep_dims=keep)
        if not last:
            return found
        count = size(node, x, axis)
        whole = np.int32(count) if isinstance(count, int) else node.mb.squeeze(x=count, axes=[0])
        return node.mb.sub(x=node.mb.sub(x=whole, y=np.int32(1)), y=found)

    return lowered


TABLE: Mapping[str, Operator] = {
    "ArgMax": extreme("reduce_argmax"),
    "ArgMin": extreme("reduce_argmin"),
    "TopK": top,
}
