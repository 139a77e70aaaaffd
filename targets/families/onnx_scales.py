"""The parameters of quantization that an ONNX or ORT file holds, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

from crosscast.targets.families.onnx_held import Held, Node
from crosscast.targets.families.parameters import Parameters

Place = tuple[int | None, int, int, int | None]
"""Inputs of an operator: levels (None for its result's), scale, zero point; then the axis of scales
that are by channel (None for those laid out otherwise)."""

PAIR: Sequence[Place] = ((0, 1, 2, None),)
"""The axis is an attribute of the two operators."""
TWO: Sequence[Place] = ((0, 1, 2, None), (3, 4, 5, -1), (None, 6, 7, None))
PASSED: Sequence[Place] = ((0, 1, 2, None), (None, 3, 4, None))

PLACES: Mapping[str, Sequence[Place]] = {
    "QuantizeLinear": PAIR,
    "DequantizeLinear": PAIR,
    "QLinearConv": ((0, 1, 2, None), (3, 4, 5, 0), (None, 6, 7, None)),
    "QLinearMatMul": TWO,
    "QLinearAdd": TWO,
    "QLinearMul": TWO,
    "QGemm": ((0, 1, 2, None), (3, 4, 5, None), (None, 7, 8, None)),
    "QLinearSigmoid": PASSED,
    "QLinearLeakyRelu": PASSED,
    "QLinearSoftmax": PASSED,
    "QLinearAveragePool": PASSED,
    "QLinearGlobalAveragePool": PASSED,
    "MatMulIntegerToFloat": ((0, 2, 4, None), (1, 3, 5, -1)),
    "DynamicQuantizeMatMul": ((1, 2, 3, -1),),
    "DynamicQuantizeLSTM": ((1, 8, 9, None), (2, 10, 11, None)),
    "QAttention": ((0, 3, 6, None), (1, 4, 7, None)),
}
"""Where operators take them. Those that keep numbers in blocks are not among them: theirs may be
negative, and 0 for a block of zeros."""

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")
"""dtypes of levels that lie in a byte or more each."""


def problems(held: Held, *, factors: Set[str] = frozenset()) -> Iterator[str]:
    """What is wrong with the parameters that are constants, one line each.

    factors: what stored numbers, or sums of their products, are multiplied with.
    """
    yield from dict.fromkeys(line for one in parameters(held) for line in one.problems())
    for name in sorted(factors & held.constants.keys()):
        yield from Parameters(tensor=name, scales=held.read(name)).problems() if held.read else ()


def parameters(held: Held) -> Iterator[Parameters]:
    """Those that are constants, but for blocks'."""
    if held.read is None:
        return
    for node in held.nodes:
        for place in PLACES.get(node.operator, ()):
            scale = _given(node, place[1])
            if scale in held.constants and not node.numbers.get("block_size"):
                yield _at(held, node, place)


def _at(held: Held, node: Node, place: Place) -> Parameters:
    assert held.read is not None
    level, scale, point, axis = place
    name = node.outputs[0] if level is None else node.inputs[level]
    points = held.read(_given(node, point)) if _given(node, point) in held.constants else None
    made = Parameters(
        tensor=name,
        scales=held.read(node.inputs[scale]),
        points=points,
        dtype="uint8" if points is None else points.dtype.name,
    )
    dtype = held.constants.get(name, ("", 0))[0]
    if dtype not in INTEGERS or node.operator == "QuantizeLinear":
        return made
    levels = held.read(name)
    if node.operator == "DynamicQuantizeLSTM" and made.scales.ndim == 2:
        made = _by_direction(made)
    if node.operator == "DequantizeLinear":
        axis = node.numbers.get("axis", 1)
    channels = levels.shape[axis] if made.scales.size > 1 and axis is not None else None
    return replace(made, dtype=dtype, levels=levels, channels=channels, axis=axis)


def _by_direction(made: Parameters) -> Parameters:
    """The parameters of [directions, inputs, gates] by direction and gate."""
    points = None if made.points is None else made.points[:, None]
    return replace(made, scales=made.scales[:, None], points=points)


def _given(node: Node, index: int) -> str:
    return node.inputs[index] if index < len(node.inputs) else ""
