"""If, Loop and Scan.

Where the condition or the number of turns is known, nothing of them is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crosscast.targets.families.onnx_mil.node import Node, Operand
from crosscast.targets.families.onnx_mil.values import axis_of, known, rank, shape

if TYPE_CHECKING:
    from crosscast.targets.families.onnx_mil.graph import Walk

Values = MutableMapping[str, Operand]

MOST = 20_000
"""Operators that a loop may be unrolled to."""


def branch(node: Node, walk: Walk, values: Values) -> tuple[Operand, ...]:
    """If: the branch that is known to be taken, or both under MIL's cond."""
    graphs = {True: node.attribute("then_branch"), False: node.attribute("else_branch")}
    if node.is_constant(0):
        taken = bool(np.all(node.constant(0, "condition")))
        return tuple(walk.inner(graphs[taken], values, {}))

    def inside(taken: bool) -> Any:
        made = walk.inner(graphs[taken], values, {})
        return tuple(_variable(node, value) for value in made)

    condition = node.x(0)
    if condition.rank:
        condition = node.mb.squeeze(x=condition)
    made = node.mb.cond(
        pred=condition, _true_fn=lambda: inside(True), _false_fn=lambda: inside(False)
    )
    return tuple(made) if isinstance(made, (tuple, list)) else (made,)


def loop(node: Node, walk: Walk, values: Values) -> tuple[Operand, ...]:
    """Loop: unrolled where it takes a known number of turns, otherwise MIL's while_loop."""
    body = node.attribute("body")
    turns = int(np.ravel(node.constant(0, "turns"))[0]) if node.is_constant(0) else None
    going = not node.has(1) or node.is_constant(1)
    if going and node.has(1) and not np.all(node.constant(1, "condition")):
        turns = 0
    carried = [node.operand(index) for index in range(2, len(node))]
    if turns is not None and going and turns * len(body.node) <= MOST:
        made = _unrolled(node, walk, values, body, carried, turns)
        if made is not None:
            return made
    if len(body.output) > 1 + len(carried):
        raise node.refused(
            "it collects an output of each turn, of a number that is only known as it runs",
            "export the model with a fixed number of turns, or remove this target",
        )
    return _while(node, walk, values, body, carried)


def _unrolled(
    node: Node, walk: Walk, values: Values, body: Any, carried: Sequence[Operand], turns: int
) -> tuple[Operand, ...] | None:
    """The results after `turns` turns; None where a turn may end the loop as it runs."""
    count = len(carried)
    collected: list[list[Operand]] = [[] for _ in body.output[1 + count :]]
    state = list(carried)
    condition: Operand = np.asarray(True)
    for turn in range(turns):
        given = [np.asarray(turn, np.int64), condition, *state]
        condition, *made = walk.inner(body, values, _named(body, given))
        if not isinstance(condition, np.ndarray):
            return None
        state = made[:count]
        for rows, value in zip(collected, made[count:], strict=True):
            rows.append(value)
        if not np.all(condition):
            break
    if collected and not collected[0]:
        raise node.refused("it collects outputs over no turn at all")
    return (*state, *(_stacked(node, rows, 0) for rows in collected))


def _while(
    node: Node, walk: Walk, values: Values, body: Any, carried: Sequence[Operand]
) -> tuple[Operand, ...]:
    limit = node.x(0) if node.has(0) else None
    limit = node.mb.squeeze(x=limit) if limit is not None and rank(limit) else limit
    first = node.x(1) if node.has(1) else np.True_
    first = node.mb.squeeze(x=first) if rank(first) else first

    def going(turn: Operand, condition: Operand, *_: Operand) -> Operand:
        if limit is None:
            return node.mb.identity(x=condition)
        return node.mb.logical_and(x=condition, y=node.mb.less(x=turn, y=limit))

    def step(turn: Operand, condition: Operand, *state: Operand) -> tuple[Operand, ...]:
        given = _named(body, [turn, condition, *state])
        after, *made = (_variable(node, one) for one in walk.inner(body, values, given))
        after = node.mb.squeeze(x=after) if rank(after) else after
        return (node.mb.add(x=turn, y=np.int32(1)), after, *made)

    start = [np.int32(0), first, *(node.mil(value) for value in carried)]
    variables = tuple(_variable(node, value) for value in start)
    return tuple(node.mb.while_loop(_cond=going, _body=step, loop_vars=variables)[2:])


def scan(node: Node, walk: Walk, values: Values) -> tuple[Operand, ...]:
    """Scan: unrolled over a sequence of a known length."""
    body, width = node.attribute("body"), int(node.attribute("num_scan_inputs"))
    states = len(node) - width
    inputs = [node.operand(index) for index in range(states, len(node))]
    outputs = len(body.output) - states
    axes = _axes(node, "scan_input_axes", [rank(value) for value in inputs])
    reverse = node.attribute("scan_input_directions", [0] * width)
    length = shape(inputs[0])[axes[0]]
    if not isinstance(length, int) or length * len(body.node) > MOST:
        raise node.refused(
            f"it runs over a sequence of {length} steps",
            "export the model with a short sequence of a fixed length, or remove this target",
        )
    state = [node.operand(index) for index in range(states)]
    collected: list[list[Operand]] = [[] for _ in range(outputs)]
    for step in range(length):
        rows = [
            _row(node, value, axis, length - 1 - step if back else step)
            for value, axis, back in zip(inputs, axes, reverse, strict=True)
        ]
        made = walk.inner(body, values, _named(body, [*state, *rows]))
        state = made[:states]
        for kept, value in zip(collected, made[states:], strict=True):
            kept.append(value)
    backwards = node.attribute("scan_output_directions", [0] * outputs)
    ranks = [rank(kept[0]) + 1 for kept in collected]
    placed = _axes(node, "scan_output_axes", ranks)
    return (
        *state,
        *(
            _stacked(node, kept[::-1] if back else kept, axis)
            for kept, back, axis in zip(collected, backwards, placed, strict=True)
        ),
    )


def _axes(node: Node, name: str, ranks: Sequence[int]) -> list[int]:
    given = node.attribute(name, [0] * len(ranks))
    return [axis_of(node, axis, dims) for axis, dims in zip(given, ranks, strict=True)]


def _row(node: Node, value: Operand, axis: int, index: int) -> Operand:
    if known(value):
        return np.take(value, index, axis=axis)
    if value.rank:
        begin, end = [0] * value.rank, [0] * value.rank
        mask = [at != axis for at in range(value.rank)]
        begin[axis], end[axis] = index, index + 1
        part = node.mb.slice_by_index(x=value, begin=begin, end=end, begin_mask=mask, end_mask=mask)
        return node.mb.squeeze(x=part, axes=[axis])
    raise node.refused("it runs over a tensor without dimensions")


def _stacked(node: Node, rows: Sequence[Operand], axis: int) -> Operand:
    if all(known(row) for row in rows):
        return np.stack(rows, axis=axis)
    parts = [node.mb.expand_dims(x=node.mil(row), axes=[axis]) for row in rows]
    return parts[0] if len(parts) == 1 else node.mb.concat(values=parts, axis=axis)


def _named(graph: Any, given: Sequence[Operand]) -> Mapping[str, Operand]:
    return {value.name: operand for value, operand in zip(graph.input, given, strict=True)}


def _variable(node: Node, value: Operand) -> Operand:
    """The value as a variable of the block that is being built."""
    given = node.mil(value)
    if known(given):
        return node.mb.const(val=given)
    return node.mb.identity(x=given)


TABLE: Mapping[str, Callable[[Node, Walk, Values], tuple[Operand, ...]]] = {
    "If": branch,
    "Loop": loop,
    "Scan": scan,
}
