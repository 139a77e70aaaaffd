"""LSTM, GRU and RNN: each direction is run forwards, the backward one over a reversed sequence,
so that nothing depends on the order in which MIL gives the outputs of a reverse layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import FREEZE, Node, Operand, Operator
from crosscast.targets.families.onnx_mil.values import filled, known, rank, shape, size

ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
MOST_STEPS = 128
"""Of a sequence of a fixed length whose steps are written out one after the other."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What the directions share. x: [steps, batch, features]. functions: of each direction."""

    node: Node
    x: Operand
    hidden: int
    reverse: tuple[bool, ...]
    functions: tuple[tuple[str, ...], ...]
    batch_first: bool

    def weights(self, index: int, direction: int) -> Any:
        """One direction's part of a known operand."""
        found = self.node.constant(index, "weights")[direction]
        return np.ascontiguousarray(found, np.float32)

    def bias(self, direction: int, gates: int) -> Any:
        """One direction's bias [2 · gates · hidden]: of the input, then of the state."""
        if not self.node.has(3):
            return np.zeros(2 * gates * self.hidden, np.float32)
        return self.weights(3, direction)

    def state(self, index: int, direction: int) -> Operand:
        """One direction's state at the start [batch, hidden]; 0 by default."""
        node = self.node
        if not node.has(index):
            return filled(node, [size(node, self.x, 1), self.hidden], np.float32(0))
        axis = 1 if self.batch_first else 0
        if node.is_constant(index):
            return np.ascontiguousarray(np.take(node.x(index), direction, axis=axis))
        if len(self.reverse) == 1:
            return node.mb.squeeze(x=node.x(index), axes=[axis])
        return node.mb.gather(x=node.x(index), indices=np.int32(direction), axis=axis)


Run = Callable[[Layer, Operand, int], tuple[Operand, ...]]
"""One direction over a sequence: the states of all steps [steps, batch, hidden], and the last ones
[batch, hidden].
"""


def recurrent(node: Node, *, defaults: Sequence[str], run: Run) -> tuple[Operand, ...]:
    """A layer of one or two directions: all states, and the last ones."""
    way = node.attribute("direction", "forward")
    if way not in DIRECTIONS:
        raise node.refused(f"attribute direction={way} is not supported")
    reverse = DIRECTIONS[way]
    batch_first = bool(node.attribute("layout", 0))
    x = node.mb.transpose(x=node.x(0), perm=[1, 0, 2]) if batch_first else node.x(0)
    if rank(x) != 3:
        raise node.refused(f"an input of rank {rank(x)}, not [steps, batch, features]")
    hidden = shape(node.constant(2, "weights"))[2]
    if node.attribute("hidden_size", hidden) != hidden:
        raise node.refused(f"attribute hidden_size={node.attribute('hidden_size')}: not {hidden}")
    _require_full_length(node, x)
    layer = Layer(
        node=node,
        x=x,
        hidden=hidden,
        reverse=reverse,
        functions=_functions(node, defaults, len(reverse)),
        batch_first=batch_first,
    )
    node.constant(1, "weights")
    found = [_direction(layer, direction, run) for direction in range(len(reverse))]
    # Y is [steps, directions, batch, hidden], or [batch, steps, directions, hidden]
    every = _joined(node, [one[0] for one in found], 1)
    last = [
        _joined(node, list(states), 0) for states in zip(*(one[1:] for one in found), strict=True)
    ]
    if batch_first:
        every = node.mb.transpose(x=every, perm=[2, 0, 1, 3])
        last = [node.mb.transpose(x=one, perm=[1, 0, 2]) for one in last]
    return (every, *last)


def lstm(node: Node) -> tuple[Operand, ...]:
    """LSTM."""
    node.only("input_forget", 0)
    if node.has(7) and (not node.is_constant(7) or np.any(node.constant(7, "peepholes"))):
        raise node.refused("peepholes are not supported")
    return recurrent(node, defaults=("Sigmoid", "Tanh", "Tanh"), run=_lstm)


def gru(node: Node) -> tuple[Operand, ...]:
    """GRU, step by step: MIL's own has no bias inside its reset gate."""
    return recurrent(node, defaults=("Sigmoid", "Tanh"), run=_gru)


def rnn(node: Node) -> tuple[Operand, ...]:
    """A plain recurrent layer."""
    return recurrent(node, defaults=("Tanh",), run=_rnn)


def _direction(layer: Layer, direction: int, run: Run) -> tuple[Operand, ...]:
    mb, back = layer.node.mb, layer.reverse[direction]
    x = mb.reverse(x=layer.x, axes=[0]) if back else layer.x
    every, *last = run(layer, x, direction)
    return (mb.reverse(x=every, axes=[0]) if back else every, *last)


def _lstm(layer: Layer, x: Operand, direction: int) -> tuple[Operand, ...]:
    order = [0, 2, 1, 3]  # ONNX has input, output, forget, cell; MIL input, forget, output, cell
    bias = layer.bias(direction, 4).reshape(2, -1).sum(axis=0)
    gate, cell, out = layer.functions[direction]
    return tuple(
        layer.node.mb.lstm(
            x=x,
            initial_h=layer.state(5, direction),
            initial_c=layer.state(6, direction),
            weight_ih=_reordered(layer.weights(1, direction), order),
            weight_hh=_reordered(layer.weights(2, direction), order),
            bias=_reordered(bias, order),
            direction="forward",
            output_sequence=True,
            recurrent_activation=gate,
            cell_activation=cell,
            activation=out,
        )
    )


def _rnn(layer: Layer, x: Operand, direction: int) -> tuple[Operand, ...]:
    return tuple(
        layer.node.mb.rnn(
            x=x,
            initial_h=layer.state(5, direction),
            weight_ih=layer.weights(1, direction),
            weight_hh=layer.weights(2, direction),
            bias=layer.bias(direction, 1).reshape(2, -1).sum(axis=0),
            direction="forward",
            output_sequence=True,
            activation=layer.functions[direction][0],
        )
    )


def _gru(layer: Layer, x: Operand, direction: int) -> tuple[Operand, ...]:
    node, mb, width = layer.node, layer.node.mb, layer.hidden
    of_input, of_state = np.split(layer.bias(direction, 3), 2)
    projected = mb.linear(x=x, weight=layer.weights(1, direction), bias=of_input)
    weights = layer.weights(2, direction)
    after = bool(node.attribute("linear_before_reset", 0))
    gate, out = layer.functions[direction]

    def part(value: Operand, begin: int, end: int) -> Operand:
        return mb.slice_by_index(x=value, begin=[0, begin], end=[0, end], end_mask=[True, False])

    def step(row: Operand, state: Operand) -> Operand:
        both = mb.linear(x=state, weight=weights[: 2 * width], bias=of_state[: 2 * width])
        gates = getattr(mb, gate)(x=mb.add(x=part(row, 0, 2 * width), y=both))
        update, reset = part(gates, 0, width), part(gates, width, 2 * width)
        last = {"weight": weights[2 * width :], "bias": of_state[2 * width :]}
        if after:
            inner = mb.mul(x=reset, y=mb.linear(x=state, **last))
        else:
            inner = mb.linear(x=mb.mul(x=reset, y=state), **last)
        fresh = getattr(mb, out)(x=mb.add(x=part(row, 2 * width, 3 * width), y=inner))
        # (1 - z) · new + z · old
        return mb.add(x=fresh, y=mb.mul(x=update, y=mb.sub(x=state, y=fresh)))

    return _stepped(node, projected, _variable(node, layer.state(5, direction)), step)


def _stepped(
    node: Node, rows: Operand, state: Operand, step: Callable[[Operand, Operand], Operand]
) -> tuple[Operand, Operand]:
    """The states of all steps and the last one: written out, or in a loop."""
    mb, steps = node.mb, shape(rows)[0]
    if isinstance(steps, int) and steps <= MOST_STEPS:
        parts = mb.split(x=rows, num_splits=steps, axis=0) if steps > 1 else [rows]
        states = []
        for part in parts:
            state = step(mb.squeeze(x=part, axes=[0]), state)
            states.append(mb.expand_dims(x=state, axes=[0]))
        return mb.concat(values=states, axis=0) if steps > 1 else states[0], state
    count = size(node, rows, 0)
    end = np.int32(count) if isinstance(count, int) else mb.squeeze(x=count, axes=[0])
    kept = filled(node, [count, size(node, rows, 1), shape(state)[1]], np.float32(0))

    def going(turn: Operand, *_: Operand) -> Operand:
        return mb.less(x=turn, y=end)

    def turned(turn: Operand, state: Operand, kept: Operand) -> tuple[Operand, ...]:
        made = step(mb.gather(x=rows, indices=turn, axis=0), state)
        row, place = mb.expand_dims(x=made, axes=[0]), mb.expand_dims(x=turn, axes=[0])
        held = mb.scatter(data=kept, indices=place, updates=row, axis=0, mode="update")
        return mb.add(x=turn, y=np.int32(1)), made, held

    start = (mb.const(val=np.int32(0)), state, _variable(node, kept))
    _, last, every = mb.while_loop(_cond=going, _body=turned, loop_vars=start)
    return every, last


def _variable(node: Node, value: Operand) -> Operand:
    return node.mb.const(val=value) if known(value) else value


def _reordered(array: Any, order: Sequence[int]) -> Any:
    """The gates, which come one after the other along the first axis, in another order."""
    parts = np.split(array, len(order))
    return np.ascontiguousarray(np.concatenate([parts[one] for one in order]))


def _joined(node: Node, parts: Sequence[Operand], axis: int) -> Operand:
    wide = [node.mb.expand_dims(x=one, axes=[axis]) for one in parts]
    return node.mb.concat(values=wide, axis=axis) if len(wide) > 1 else wide[0]


def _functions(node: Node, defaults: Sequence[str], directions: int) -> tuple[tuple[str, ...], ...]:
    named = node.attribute("activations", list(defaults) * directions)
    for one in named:
        if one.lower() not in ACTIVATIONS:
            raise node.refused(f"attribute activations: {one} is not supported")
    count = len(defaults)
    lower = [ACTIVATIONS[one.lower()] for one in named]
    return tuple(tuple(lower[at : at + count]) for at in range(0, len(lower), count))


def _require_full_length(node: Node, x: Operand) -> None:
    """Raise StageError where sequences may end before the last step."""
    if not node.has(4):
        return
    steps = shape(x)[0]
    if not node.is_constant(4) or any(one != steps for one in node.ints(4, "lengths")):
        raise node.refused(
            "sequences of their own lengths (sequence_lens) are not supported",
            f"export the model without them. Otherwise: {FREEZE}",
        )


TABLE: Mapping[str, Operator] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
