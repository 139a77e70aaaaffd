"""The real numbers that the constants of an ONNX file stand for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from crosscast.pipeline.parity.gains import Weight
from crosscast.targets.families.onnx_held import BYTES, FLOATS, Held, Node
from crosscast.targets.families.onnx_scales import parameters
from crosscast.targets.families.parameters import Parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCKWISE = {"MatMulNBits": (1, 2, 3), "GatherBlockQuantized": (0, 2, 3)}
"""Where operators that keep two levels in a byte take levels, scales and zero points."""

MIDDLE = 8
"""The zero point of 4 bits where none is given."""


def weights(held: Held) -> Iterator[Weight]:
    """Of floats, and of integers whose scales are constants."""
    assert held.read is not None
    for name, (dtype, _) in held.constants.items():
        if dtype in FLOATS:
            yield Weight(name, held.read(name))
    stored = (*parameters(held), *_multiplied(held))
    yield from (it.weight for it in stored if it.weight is not None)
    for node in held.nodes:
        if node.operator in BLOCKWISE and node.numbers.get("bits", 4) == 4:
            yield from _blocks(held, node)


def _multiplied(held: Held) -> Iterator[Parameters]:
    """What is cast and multiplied by its scale: stored numbers, or the sums of their products with
    activations.
    """
    assert held.read is not None
    levels = {name: name for name, (dtype, _) in held.constants.items() if dtype in BYTES}
    points: dict[str, str] = {}
    factors = _factors(held)
    for node in held.nodes:
        if node.operator in ("Cast", "Gather") and node.inputs[0] in levels:
            levels[node.outputs[0]] = levels[node.inputs[0]]
        elif node.operator == "MatMulInteger" and node.inputs[1] in levels:
            name = levels[node.outputs[0]] = levels[node.inputs[1]]
            points[name] = next(iter(node.inputs[3:4]), "")
        elif node.operator == "Mul":
            for one, other in (node.inputs, reversed(node.inputs)):
                if one in levels and other in factors:
                    name = levels[one]
                    point = points.get(name, "")
                    yield Parameters(
                        tensor=name,
                        scales=held.read(factors[other]),
                        points=held.read(point) if point in held.constants else None,
                        levels=held.read(name),
                        axis=-1,
                    )


def _factors(held: Held) -> dict[str, str]:
    """The float constant in each factor: itself, or where it comes multiplied with the scale that
    an activation was just given.
    """
    factors = {name: name for name, (dtype, _) in held.constants.items() if dtype in FLOATS}
    given = {it.outputs[1] for it in held.nodes if it.operator == "DynamicQuantizeLinear"}
    for node in held.nodes:
        scales = [name for name in node.inputs if name in factors]
        if node.operator == "Mul" and scales and given & {*node.inputs}:
            factors[node.outputs[0]] = factors[scales[0]]
    return factors


def _blocks(held: Held, node: Node) -> Iterator[Weight]:
    import numpy as np

    assert held.read is not None
    places = BLOCKWISE[node.operator]
    given = [node.inputs[place] if place < len(node.inputs) else "" for place in places]
    if not {*given[:2]} <= held.constants.keys() or held.constants[given[0]][0] != "uint8":
        return
    packed = held.read(given[0])
    levels = _halves(packed.reshape(len(packed), -1))
    scales = held.read(given[1]).reshape(len(levels), -1)
    points = np.full(1, MIDDLE, np.uint8)
    if given[2] in held.constants:
        points = held.read(given[2])
        if points.dtype == np.uint8:
            points = _halves(points.reshape(len(levels), -1))[:, : scales.shape[1]]
    found = Parameters(tensor=given[0], scales=scales, points=points, levels=levels).weight
    if found is not None and found.steps is not None:
        columns = node.numbers.get("K", levels.shape[1])
        yield Weight(found.name, found.values[:, :columns], found.steps[:, :columns])


def _halves(packed: NDArray[Any]) -> NDArray[Any]:
    """Of uint8[rows, bytes], [rows, 2 * bytes]: the lower half of each byte, then the upper."""
    import numpy as np

    return np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
