"""Recurrent layers unrolled: LiteRT's own keep a state of one size, from zeros, and lack GRU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crosscast.targets.families.tflite_rewrites_facts import Facts, attribute

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from crosscast.targets.families.onnx_nodes import Spelling

ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

MOST_STEPS = 256
"""Of an unrolled layer: each is a dozen operators."""


def recurrent(node: NodeProto, spell: Spelling, facts: Facts) -> bool | None:
    """Unrolled where the length is fixed, or has a greatest value that is known, and either the
    batch is not fixed or the layer is given its state. Those that LiteRT has an operator for stay.
    """
    shape = facts.shape(node.input[0])
    if shape is None or len(shape) != 3 or not _is_common(node, facts):
        return False
    by_row = attribute(node, "layout", 0) == 1
    steps, batch = (shape[1], shape[0]) if by_row else (shape[0], shape[1])
    has_own = node.op_type != "GRU" and not _states(node) and batch and not facts.any_batch
    most = facts.lengths.get(node.name)
    if most is not None:
        most += 1  # so that there is always something to pad
    if has_own or by_row or steps is None or (most or steps) > MOST_STEPS:
        return False
    _Unrolled(node, spell, facts, steps, most).write()
    return None


def _states(node: NodeProto) -> list[str]:
    return [node.input[i] for i in STATES[node.op_type] if i < len(node.input) and node.input[i]]


def _is_common(node: NodeProto, facts: Facts) -> bool:
    """Whether the layer is none of the rare kinds: peepholes, clipping, rows of several lengths."""
    activations = attribute(node, "activations", ACTIVATIONS[node.op_type])
    names = [name.decode() if isinstance(name, bytes) else name for name in activations]
    usual = ACTIVATIONS[node.op_type]
    plain = names == usual * (len(names) // len(usual)) or (
        node.op_type == "RNN" and set(names) <= {"Tanh", "Relu"}
    )
    given = dict(enumerate(node.input))
    return (
        plain
        and all(name in facts.constants for name in node.input[1:3])
        and (not given.get(3) or given[3] in facts.constants)
        and not given.get(4)
        and not given.get(7)
        and not attribute(node, "clip", 0.0)
        and not attribute(node, "input_forget", 0)
    )


class _Unrolled:
    """One recurrent layer, spelled out step by step.

    most: how many steps to spell, where there may be more than the graph has: those beyond its
        length leave the state as it is.
    """

    def __init__(
        self, node: NodeProto, spell: Spelling, facts: Facts, length: int, most: int | None
    ) -> None:
        self.node, self.spell, self.facts = node, spell, facts
        self.length, self.most = length, most
        self.steps = most or length
        self.size = int(attribute(node, "hidden_size", 0))
        names = attribute(node, "activations", ACTIVATIONS[node.op_type])
        self.activations = [name.decode() if isinstance(name, bytes) else name for name in names]

    def write(self) -> None:
        """Spell the layer's outputs."""
        self.source, self.masks = self._padded()
        direction = attribute(self.node, "direction", "forward")
        ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
        sequences, states = [], []
        for way, backwards in enumerate(ways):
            outputs, last = self._way(way, backwards)
            sequences.append(outputs)
            states.append(last)
        self._output(0, [self._stacked(outputs) for outputs in sequences], 1)
        for place in range(len(states[0])):
            axis = self.spell.constant([0])
            rows = [self.spell("Unsqueeze", [last[place], axis]) for last in states]
            self._output(1 + place, rows, 0)

    def _output(self, place: int, parts: list[str], axis: int) -> None:
        if place < len(self.node.output) and self.node.output[place]:
            name = self.node.output[place]
            if len(parts) == 1:
                self.spell("Identity", parts, output=name)
            else:
                self.spell("Concat", parts, output=name, axis=axis)

    def _stacked(self, outputs: list[str]) -> str:
        """[length, 1, batch, size] of all steps' outputs."""
        axes = self.spell.constant([0, 1])
        parts = [self.spell("Unsqueeze", [output, axes]) for output in outputs]
        whole = parts[0] if len(parts) == 1 else self.spell("Concat", parts, axis=0)
        if self.most is None:
            return whole
        limits = [self.spell.constant([each]) for each in (0, self.length, 0)]
        return self.spell("Slice", [whole, *limits])

    def _padded(self) -> tuple[str, list[str]]:
        """The layer's input with as many steps as are spelled, and [batch, 1] of 1 for each that it
        has, 0 for each beyond; no masks where there is none beyond.
        """
        import numpy as np

        source, spell = self.node.input[0], self.spell
        if self.most is None:
            return source, []
        shape = self.facts.shape(source)
        assert shape is not None
        ones = spell.array(np.ones((self.length, shape[1] or 1, 1), np.float32))
        marked = spell("Concat", [source, ones], axis=2)
        amounts = spell.constant([0, 0, 0, self.most - self.length, 0, 0])
        whole = spell("Pad", [marked, amounts, spell.constant(0.0)], mode="constant")
        width = int(shape[2] or 0)
        source, mask = (
            spell("Slice", [whole, *map(spell.constant, ([start], [end], [2]))])
            for start, end in ((0, width), (width, width + 1))
        )
        return source, self._split(mask)

    def _held(self, before: str, after: str, mask: str) -> str:
        """The state after a step where the mask is 1, that before it where it is 0."""
        if not before:
            return self.spell("Mul", [mask, after])
        change = self.spell("Sub", [after, before])
        return self.spell("Add", [before, self.spell("Mul", [mask, change])])

    def _way(self, way: int, backwards: bool) -> tuple[list[str], list[str]]:
        """The outputs of all steps in one direction, and the last state."""
        weights, kept, bias = self._weights(way)
        inputs = self.spell("MatMul", [self.source, self.spell.array(weights.T)])
        inputs = self.spell("Add", [inputs, self.spell.array(self._input_bias(bias))])
        parts = self._split(inputs)
        state = [self._state(place, way) for place in STATES[self.node.op_type]]
        turned = self.spell.array(kept.T)
        rest = self.spell.array(bias[1])
        outputs: list[str] = []
        steps = range(self.steps)
        for step in reversed(steps) if backwards else steps:
            before = state
            cell = getattr(self, f"_{self.node.op_type.lower()}")
            state = cell(parts[step], before, turned, rest)
            if self.masks:
                mask = self.masks[step]
                pairs = zip(before, state, strict=True)
                state = [self._held(old, new, mask) for old, new in pairs]
            outputs.append(state[0])
        return outputs[::-1] if backwards else outputs, state

    def _weights(self, way: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Those of inputs and of the state, and the bias of each: [2, gates * size]."""
        import numpy as np

        weights, kept = (self.facts.constant(name) for name in self.node.input[1:3])
        assert weights is not None
        assert kept is not None
        given = self.node.input[3] if len(self.node.input) > 3 else ""
        bias = self.facts.constant(given)
        both = np.zeros((2, weights.shape[1]), np.float32)
        return weights[way], kept[way], both if bias is None else bias[way].reshape(2, -1)

    def _input_bias(self, bias: NDArray[Any]) -> NDArray[Any]:
        """What is added to all steps at once: of a GRU, whose reset gate may stand between, only
        the gates' part of the state's bias.
        """
        result: NDArray[Any] = bias[0] + bias[1]
        if self.node.op_type == "GRU" and attribute(self.node, "linear_before_reset", 0):
            result[2 * self.size :] -= bias[1][2 * self.size :]
        return result

    def _split(self, inputs: str) -> list[str]:
        """[batch, gates * size] of each step."""
        axes = self.spell.constant([0])
        step = [
            self.spell("Slice", [inputs, *map(self.spell.constant, ([t], [t + 1], [0]))])
            for t in range(self.steps)
        ]
        return [self.spell("Squeeze", [part, axes]) for part in step]

    def _state(self, place: int, way: int) -> str:
        """The state that a direction starts from; '' for zeros."""
        name = self.node.input[place] if place < len(self.node.input) else ""
        if not name:
            return ""
        limits = [self.spell.constant([each]) for each in (way, way + 1, 0)]
        part = self.spell("Slice", [name, *limits])
        return self.spell("Squeeze", [part, self.spell.constant([0])])

    def _gates(self, total: str, first: int, count: int) -> list[str]:
        """Gates of a [batch, gates * size] tensor."""
        return [
            self.spell(
                "Slice",
                [
                    total,
                    *map(
                        self.spell.constant,
                        ([gate * self.size], [(gate + 1) * self.size], [1]),
                    ),
                ],
            )
            for gate in range(first, first + count)
        ]

    def _rnn(self, part: str, state: list[str], kept: str, rest: str) -> list[str]:  # noqa: ARG002
        total = self._plus_state(part, state[0], kept)
        return [self.spell(self.activations[0], [total])]

    def _plus_state(self, part: str, state: str, kept: str) -> str:
        if not state:
            return part
        return self.spell("Add", [part, self.spell("MatMul", [state, kept])])

    def _lstm(self, part: str, state: list[str], kept: str, rest: str) -> list[str]:  # noqa: ARG002
        gates = self._gates(self._plus_state(part, state[0], kept), 0, 4)
        entry, output, forget = (self.spell("Sigmoid", [gate]) for gate in gates[:3])
        cell = self.spell("Mul", [entry, self.spell("Tanh", [gates[3]])])
        if state[1]:
            cell = self.spell("Add", [cell, self.spell("Mul", [forget, state[1]])])
        return [self.spell("Mul", [output, self.spell("Tanh", [cell])]), cell]

    def _gru(self, part: str, state: list[str], kept: str, rest: str) -> list[str]:
        spell, before = self.spell, state[0]
        linear = attribute(self.node, "linear_before_reset", 0)
        own = self._gates(part, 0, 3)
        if not before:
            update, reset = (spell("Sigmoid", [gate]) for gate in own[:2])
            hidden = own[2]
            if linear:
                bias = self._vector_gate(rest)
                hidden = spell("Add", [hidden, spell("Mul", [reset, bias])])
            hidden = spell("Tanh", [hidden])
            return [spell("Sub", [hidden, spell("Mul", [update, hidden])])]
        product = spell("MatMul", [before, kept])
        others = self._gates(product, 0, 3)
        update, reset = (
            spell("Sigmoid", [spell("Add", [mine, its])])
            for mine, its in zip(own[:2], others[:2], strict=True)
        )
        if linear:
            inner = spell("Mul", [reset, spell("Add", [others[2], self._vector_gate(rest)])])
        else:
            limits = [spell.constant([each]) for each in (2 * self.size, 3 * self.size, 1)]
            matrix = spell("Slice", [kept, *limits])
            inner = spell("MatMul", [spell("Mul", [reset, before]), matrix])
        hidden = spell("Tanh", [spell("Add", [own[2], inner])])
        change = spell("Mul", [update, spell("Sub", [before, hidden])])
        return [spell("Add", [hidden, change])]

    def _vector_gate(self, rest: str) -> str:
        """The hidden gate's part of the state's bias."""
        limits = [self.spell.constant([each]) for each in (2 * self.size, 3 * self.size, 0)]
        return self.spell("Slice", [rest, *limits])
