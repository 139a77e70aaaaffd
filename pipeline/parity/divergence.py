"""An artifact's tensors beside those of the float network that it comes from. numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crosscast.pipeline.parity.correspondence import Reference, snr_db
from crosscast.pipeline.parity.explanation import HALF_DB, Explanation, Node, Seen, costliest
from crosscast.pipeline.signature import Arrays

SAME = "operator by operator the artifact computes what the float network does"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A value that an operator computes. reads: the values that it is computed from, no constants.

    weights: elements of the constants of floats that the operator reads.
    """

    name: str
    node: str
    operator: str
    reads: tuple[str, ...]
    weights: int = 0


class Network(Protocol):
    """A network whose values can all be seen, and replaced on the way."""

    inputs: list[str]
    outputs: list[str]

    @property
    def made(self) -> Mapping[str, Made]:
        """What computes each value."""

    def values(self, under: Any = None) -> Any:
        """Room for values by name, a dict but for where it keeps them; at first it has those that
        `under` has.
        """

    def run(self, values: Any, *, given: Any = None) -> Iterator[tuple[str, Any]]:
        """What the operators compute, by name and in order.

        values: holds the inputs, and takes what is computed. given: what the readers of some values
        are given in place of these.
        """

    def disturbed(self, values: Any, places: Sequence[str]) -> Callable[[Arrays], Arrays]:
        """A function that gives the outputs with errors, by the value that each is added to.

        values: all of them without an error. places: the values that errors are added to.
        """


@dataclass(kw_only=True)
class Comparison:
    """What the float network computes of one case's inputs, and the artifact.

    clean: the float network's values. theirs: the artifact's, in its shapes and dtypes. own: what
    the float network makes of the artifact's. shown: by what the artifact computes each, and the
    SNR; several where it is computed, then quantized, then read back. line: the source's line that
    made a value.
    """

    network: Network
    line: Callable[[Made], str] = lambda made: ""  # noqa: ARG005
    clean: Any = field(init=False)
    theirs: Any = field(init=False)
    own: Any = field(init=False)
    shown: dict[str, list[tuple[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clean, self.theirs, self.own = (self.network.values() for _ in range(3))
        self.reference = Reference(read=self.clean.__getitem__, names=self._names())

    def _names(self) -> dict[str, str]:
        """The values by what artifacts may call them: the name of a node, or what a converter calls
        its input or output, yields to a value's own name.
        """
        names: dict[str, str] = {}
        for made in self.network.made.values():
            names.setdefault(made.node, made.name)
            names.setdefault(f"{made.node}_output", made.name)
            names.setdefault(f"{made.node}_input", next(iter(made.reads), ""))
        return names | {name: name for name in (*self.network.inputs, *self.network.made)}

    def measure(self, inputs: Arrays) -> None:
        """Compute the float network's values."""
        for name, array in inputs.items():
            self.clean[name] = array
            self._expect(name, array)
        for name, value in self.network.run(self.clean):
            self._expect(name, value)

    def _expect(self, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            self.reference.add(name, value)

    def see(self, called: str, array: NDArray[Any], told: str) -> None:
        """Take in the artifact's next tensor; told: what it is, for people. Of those that stand for
        one value the last counts, since that is what later operators read.
        """
        match = self.reference.match(called, array)
        if match is not None:
            dtype = self.clean[match.name].dtype
            self.theirs[match.name] = np.ascontiguousarray(match.array).astype(dtype)
            self.shown.setdefault(match.name, []).append((told, match.snr_db))

    @property
    def outputs_db(self) -> float | None:
        """The SNR of the artifact's worst output of floats; None where none was seen."""
        found = [self.shown[name][-1][1] for name in self.network.outputs if name in self.shown]
        return min(found, default=None)

    def explained(self, case: str) -> Explanation:
        """Where the error comes from."""
        if not self.shown:
            return Explanation(
                case=case, problem="no tensor of the artifact is like one of the float network"
            )
        found = self._culprit(list(self._seen()))
        problem = "" if found else SAME
        return Explanation(case=case, problem=problem, culprit=found, outputs_db=self.outputs_db)

    def _culprit(self, seen: Sequence[Seen]) -> Seen | None:
        """The first value that is no number of its own accord; else that whose own error costs the
        outputs most. None where none has one.
        """
        broken = next((one for one in seen if not one.is_finite), None)
        wrong = {one.name: one for one in seen if one.own_db < math.inf}
        if broken or not wrong:
            return broken
        disturbed = self.network.disturbed(self.clean, list(wrong))

        def kept_db(names: Collection[str]) -> float:
            return self._kept_db(disturbed({name: self._error(name) for name in names}))

        found, alone_db = costliest(list(wrong), kept_db)
        return replace(wrong[found], alone_db=alone_db)

    def _seen(self) -> Iterator[Seen]:
        values = self.network.values(self.clean)
        inputs = [name for name in self.network.inputs if name in self.theirs]
        for name in inputs:
            values[name] = self.theirs[name]
        own = ((name, self.clean[name]) for name in inputs)
        for name, value in (*own, *self.network.run(values, given=self.theirs)):
            if name in self.theirs:
                self.own[name] = value
                yield self._one(name, value)
        values.clear()

    def _one(self, name: str, own: NDArray[Any]) -> Seen:
        theirs = self.theirs[name]
        after_db = self.shown[name][-1][1]
        nodes, before = self._since_seen(name)
        # a value that is as wrong before it is quantized is not quantization's fault
        told = next(text for text, found in self.shown[name] if found <= after_db + HALF_DB)
        return Seen(
            name=name,
            shape=theirs.shape,
            nodes=tuple(nodes),
            artifact=told,
            before_db=min((self.shown[one][-1][1] for one in before), default=math.inf),
            after_db=after_db,
            own_db=snr_db(own, theirs),
            is_finite=bool(np.isfinite(theirs[np.isfinite(own)]).all()),
        )

    def _since_seen(self, name: str) -> tuple[list[Node], list[str]]:
        """The operators that make a value of others that were seen, in order, and these."""
        needed, before, waiting = set[str](), list[str](), [name]
        while waiting:
            made = self.network.made.get(waiting.pop())
            if made is None or made.name in needed:
                continue
            needed.add(made.name)
            before += [one for one in made.reads if one in self.theirs]
            waiting += [one for one in made.reads if one not in self.theirs]
        ordered = (self.network.made[one] for one in self.network.made if one in needed)
        return list(map(self._node, ordered)), before

    def _node(self, made: Made) -> Node:
        return Node(
            name=made.node, operator=made.operator, weights=made.weights, source=self.line(made)
        )

    def _error(self, name: str) -> NDArray[Any]:
        """The own error of a value; none where it and the artifact's are infinite, as in masks."""
        theirs, own = self.theirs[name], self.own[name]
        usable = np.isfinite(theirs) & np.isfinite(own)
        error: NDArray[Any] = np.subtract(theirs, own, where=usable, out=np.zeros_like(own))
        return error

    def _kept_db(self, outputs: Arrays) -> float:
        """What outputs of floats keep of the float network's, in dB; that of the worst of them."""
        judged = [name for name in self.network.outputs if name in self.reference.shapes]
        found = [snr_db(self.clean[name], outputs[name]) for name in judged]
        return min(found, default=math.inf)
