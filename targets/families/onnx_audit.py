"""What an ONNX or ORT file is kept in, by bytes of its weights, and what its operators compute in.

Weights are constants that operators compute with. Shapes, indices, scales and zero points are
none. Integers are weights only where an operator reads them as stored numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from crosscast.pipeline.errors import StageError
from crosscast.targets.base import Delivered, Precision
from crosscast.targets.families import finite
from crosscast.targets.families.onnx_compute import KEPT, SUMMING, computing
from crosscast.targets.families.onnx_held import (
    BYTES,
    DELIVERED,
    FLOAT_KINDS,
    FLOATS,
    STORED,
    Held,
    Node,
)
from crosscast.targets.families.onnx_scales import problems

MOVING = ("Gather", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity")
"""Operators that pass stored numbers on."""

INTEGER = ("MatMulInteger", "ConvInteger")
"""Operators that give sums of products of stored numbers."""

BLOCKWISE = ("MatMulNBits", "GatherBlockQuantized")
"""Those that keep several numbers in a byte."""


CALCULATING = frozenset(
    (
        "Add", "Sub", "Mul", "Div", "Gather", "PRelu",
        "BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization",
    )
)  # fmt: skip
"""Operators that make another number of each that they read, or give it as it is; beside those that
sum products."""


def audit(held: Held) -> Precision:
    """The precision that holds most of the weights' bytes.

    A file without weights is judged by the conversions that its graph holds.
    """
    weights = Counter[str]()
    for dtype, size in _weights(held):
        weights[dtype] += size
    if held.attributes:
        weights["float32"] += held.attributes
    shares = Counter[Delivered]()
    for dtype, size in weights.items():
        shares[DELIVERED[dtype]] += size
    delivered = shares.most_common(1)[0][0] if shares else _by_graph(held)
    return Precision(
        delivered=delivered,
        weights=dict(sorted(weights.items())),
        operators=computing(held),
        problems=(*problems(held, factors=_factors(held)), *_not_finite(held)),
    )


def refuse_unless(found: Precision, asked: Delivered, *, target: str) -> None:
    """Raise StageError where most of the weights are not in the precision that was asked for."""
    if found.delivered == asked:
        return
    total = sum(found.weights.values())
    if not total:
        raise StageError(
            f"{target}: the model holds no weights, so there is nothing to keep in {asked}",
            fix="ship it as onnx or onnx-fp16",
        )
    share = sum(size for dtype, size in found.weights.items() if DELIVERED[dtype] == asked) / total
    raise StageError(
        f"{target}: {asked} can keep only {100 * share:.0f} % of the weights' bytes: the others "
        "belong to operators that it does not serve, or are excluded",
        fix="exclude less, or take another target: onnx-fp16 keeps any operator's weights, "
        "onnx-int8-dynamic those of convolutions, matrix products and recurrent layers",
    )


def _weights(held: Held) -> Iterator[tuple[str, int]]:
    stored, cast, packed, scales = set[str](), set[str](), dict[str, str](), _factors(held)
    for node in reversed(held.nodes):
        if node.operator in STORED:
            data, plain = STORED[node.operator]
            for index, name in enumerate(node.inputs):
                if index in data:
                    stored.add(name)
                    if node.operator in BLOCKWISE:
                        packed[name] = "uint8" if node.numbers.get("bits") == 8 else "int4"
                elif index not in plain:
                    scales.add(name)
        elif node.operator == "Cast":
            cast.update(node.inputs)
        elif node.operator in MOVING:
            for kept in (stored, cast):
                kept.update(node.inputs[:1] if set(node.outputs) & kept else ())
    for name, (dtype, size) in held.constants.items():
        if name in stored and dtype in DELIVERED:
            yield packed.get(name, dtype), size
        elif (name in cast and dtype in BYTES) or (name not in scales and dtype in FLOATS):
            yield dtype, size


def _factors(held: Held) -> set[str]:
    """What numbers are multiplied with once they are cast, stored ones or the sums of an integer
    product: their scales. Those of a product come multiplied with each other.
    """
    numbers = {name for name, (dtype, _) in held.constants.items() if dtype in BYTES}
    wide, factors = set[str](), set[str]()
    for node in held.nodes:
        moved = node.operator in MOVING and numbers & set(node.inputs[:1])
        if moved or node.operator in INTEGER:
            numbers.update(node.outputs)
        elif node.operator == "Cast" and numbers & set(node.inputs):
            wide.update(node.outputs)
        elif node.operator == "Mul" and wide & set(node.inputs):
            factors.update(set(node.inputs) - wide)
    for node in reversed(held.nodes):
        if node.operator == "Mul" and factors & set(node.outputs):
            factors.update(node.inputs)
    return factors


def _not_finite(held: Held) -> Iterator[str]:
    """What is wrong with the float constants that operators calculate with, one line each."""
    summed, read = set[str](), set[str]()
    for node in reversed(held.nodes):
        if node.operator in SUMMING:
            summed.update(node.inputs)
        elif node.operator in CALCULATING:
            read.update(node.inputs)
        elif node.operator in KEPT:
            for kept in (summed, read):
                kept.update(node.inputs[:1] if set(node.outputs) & kept else ())
    for name, (dtype, _) in held.constants.items():
        if held.read and dtype in FLOATS and name in summed | read:
            found = finite.problem(name, held.read(name), is_summed=name in summed)
            yield from filter(None, [found])


def _by_graph(held: Held) -> Delivered:
    if any(node.operator in STORED for node in held.nodes):
        return "int8"
    return "fp16" if any(_halves(node) for node in held.nodes) else "fp32"


def _halves(node: Node) -> bool:
    return node.operator == "Cast" and FLOAT_KINDS.get(node.numbers.get("to", 0)) == "float16"
