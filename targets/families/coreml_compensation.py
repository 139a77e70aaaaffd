"""Weights of a ML Program, rounded so that their errors cancel: see `compensation`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crosscast.targets.families import compensation, coreml, sensitivity
from crosscast.targets.families.compensation import LONGEST, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosscast.pipeline.signature import Arrays
    from crosscast.targets.families.mil.program import Block, Operation, Port


class Weight(NamedTuple):
    """A constant that one convolution or linear operator multiplies by.

    values: [channels out, channels in / groups, *kernel] or [out, in]. read: the name of what is
    multiplied by it. settings: of a convolution; empty for a linear operator.
    """

    values: NDArray[Any]
    read: str
    settings: Mapping[str, Any]

    @property
    def groups(self) -> int:
        """Of a convolution."""
        return int(self.settings.get("groups", 1))

    @property
    def filters(self) -> NDArray[Any]:
        """[groups, filters of a group, length]."""
        return self.values.reshape(self.groups, len(self.values) // self.groups, -1)

    def rows(self, value: NDArray[Any], most: int) -> NDArray[Any]:
        """What filters are multiplied by, one row for each time, `most` of them."""
        if not self.settings:
            return compensation.some(value.reshape(-1, self.values.shape[1]), most)
        return compensation.patches(value, _window(self, value.shape[2:]), most)


def compensated(artifact: Path, samples: Path, *, wanted: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Of the constants `wanted`, those of convolutions and linear operators, on the steps of int8,
    by name; computed by the reference evaluator.

    artifact: in float. samples: tree of them, in the model's layout.
    Raises Unproven where the evaluator lacks what the program has, StageError where it cannot run
    it.
    """
    from crosscast.pipeline.parity.samples import read_cases

    names = set(wanted)
    found = {name: it for name, it in weights(coreml.program(artifact).block) if name in names}
    places = sensitivity.spread(sum(1 for _ in read_cases(samples)))

    def correlations(part: Mapping[str, Weight]) -> Mapping[str, NDArray[Any]]:
        cases = (case.arrays for case in sensitivity.at(read_cases(samples), places))
        return _correlations(artifact, part, cases, len(places))

    fitted = compensation.fitted(found, correlations)
    return {name: filters.reshape(found[name].values.shape) for name, filters in fitted}


def weights(block: Block) -> Iterator[tuple[str, Weight]]:
    """The constants that a block's convolutions and linear operators multiply by, those that
    nothing else reads.
    """
    from crosscast.targets.families.mil.program import constants

    held = constants(block)
    readers: dict[str, list[Operation]] = {}
    for operation in block.operations:
        for arguments in operation.arguments.values():
            for argument in filter(lambda one: isinstance(one, str), arguments):
                readers.setdefault(str(argument), []).append(operation)
    for name, read_by in readers.items():
        operation = read_by[0]
        is_only = len(read_by) == 1 and operation.arguments.get("weight") == (name,)
        if name in held and is_only and operation.type in ("conv", "linear"):
            weight = _weight(operation, held[name], held)
            if weight is not None and weight.filters.shape[2] <= LONGEST:
                yield name, weight


def _weight(
    operation: Operation, values: NDArray[Any], constants: Mapping[str, Any]
) -> Weight | None:
    (read,) = operation.arguments["x"]
    if not isinstance(read, str):
        return None
    if operation.type == "linear":
        return Weight(values, read, {})
    settings = {}
    for key in ("groups", "strides", "dilations", "pad", "pad_type"):
        if key in operation.arguments:
            (argument,) = operation.arguments[key]
            settings[key] = constants[argument] if isinstance(argument, str) else argument.value
    return Weight(values, read, {"groups": 1, **settings})


def _window(weight: Weight, sizes: Sequence[int]) -> Window:
    kernel, settings = weight.values.shape[2:], weight.settings
    kind = str(settings.get("pad_type", "valid"))
    pads = [0] * 2 * len(kernel)
    if kind == "custom":
        pads = [int(one) for one in settings["pad"]]
    window = Window(
        kernel,
        [int(one) for one in settings.get("strides", [1] * len(kernel))],
        [int(one) for one in settings.get("dilations", [1] * len(kernel))],
        list(zip(pads[::2], pads[1::2], strict=True)),
    )
    if kind in ("same", "same_lower"):
        return compensation.same(sizes, window, upper=kind == "same")
    return window


def _correlations(
    artifact: Path, part: Mapping[str, Weight], cases: Iterable[Arrays], count: int
) -> dict[str, NDArray[Any]]:
    """How what each weight is multiplied by goes together, over the cases, of which there are
    `count`.
    """
    readers: dict[str, list[str]] = {}
    for name, weight in part.items():
        readers.setdefault(weight.read, []).append(name)
    totals: dict[str, NDArray[Any]] = {}

    def watch(_: Operation, port: Port, value: Any) -> None:
        for name in readers.get(port.name, ()):
            weight = part[name]
            rows = weight.rows(value.numpy(), compensation.rows_of(weight.filters.shape[2], count))
            totals[name] = totals.get(name, 0.0) + compensation.gram(rows, weight.groups)

    session = coreml.evaluated(artifact=artifact, ideal=True, watch=watch)
    for arrays in cases:
        coreml.answers(session, arrays)
    return totals
