"""Where an artifact's error comes from, and how that is told. Pure.

Errors travel: behind a wrong layer everything is wrong. So each tensor is judged by its own error:
what it differs by from what the float layer makes of the same inputs, those that the artifact
itself has computed. Own errors are not all of the same consequence, so each is tried alone in the
float network: the one that costs the outputs most is where the error comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

PARTS = 48
"""Errors, or groups of neighbouring ones, that are tried in turn; bounds the time."""

APART = 8
"""Groups, those that cost most, whose errors are tried apart."""

FINALISTS = 16
"""Errors, those that cost most alone, that are tried one upon the other; bounds memory and time."""

WORST_DB = -300.0
"""What outputs keep at the least, for noise to be a number."""

HALF_DB = 3.0
"""Decibels that half of an error's power is less than all of it."""

MOST_NAMED = 4
"""Operators that are named one by one."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """An operator of the float network. weights: number of the constants' elements that it reads.

    source: the line that it comes from, where that is known.
    """

    name: str
    operator: str
    weights: int = 0
    source: str = ""

    def __str__(self) -> str:
        """As in "Conv 'blocks.3.conv'"."""
        return f"{self.operator} '{self.name}'"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A tensor of the float network that has a counterpart in the artifact.

    nodes: what computes it from the tensors before it that have one, in order; none for an input.
    artifact: what the artifact computes it with. is_finite: whether it holds no NaN or infinity
    that its inputs do not explain. SNR in dB of the artifact's: before_db: the worst of those that
    it is computed from; after_db: its own; own_db: beside what `nodes` make of the artifact's
    inputs; alone_db: what the outputs keep where its own error is the only one, None where that
    was not tried.
    """

    name: str
    shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    artifact: str
    before_db: float
    after_db: float
    own_db: float
    is_finite: bool = True
    alone_db: float | None = None

    @property
    def layer(self) -> Node | None:
        """The operator with most weights, the first of equals; None for an input."""
        return max(self.nodes, key=lambda node: node.weights, default=None)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """case: the sample. problem: why nothing was found, or what else there is to know.
    culprit: the tensor whose own error costs most. outputs_db: SNR of the artifact's outputs.
    """

    case: str
    problem: str = ""
    culprit: Seen | None = None
    outputs_db: float | None = None

    def lines(self) -> list[str]:
        """For people."""
        told = [self.problem] if self.problem else []
        return told if self.culprit is None else [*told, *_told(self.culprit, self)]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form; infinite numbers are the strings "inf" and "-inf"."""
        culprit = self.culprit
        layer = culprit.layer if culprit else None
        return {
            "case": self.case,
            "problem": self.problem,
            "layer": layer.name if layer else "",
            "operator": layer.operator if layer else "",
            "source": layer.source if layer else "",
            "tensor": _plain(asdict(culprit)) if culprit else None,
            "outputs_db": _plain(self.outputs_db),
            "lines": self.lines(),
        }


def costliest(
    names: Sequence[str], kept_db: Callable[[Collection[str]], float]
) -> tuple[str, float]:
    """The name whose error costs most, and what the outputs keep with it alone.

    names: one at least, in order. kept_db: what the outputs keep with the errors of some names.

    An error counts for what it costs alone, but for no more than it adds, for good, to those before
    it: behind what is broken layers err that would not otherwise, as where they saturate, and what
    one layer scales the next may scale back.
    """
    alone = {name: _noise(left) for name, left in _apart(names, kept_db).items()}
    best = sorted(alone, key=lambda name: -alone[name])[:FINALISTS]
    order = [name for name in names if name in best]
    noises = [_noise(kept_db(order[: place + 1])) for place in range(len(order))]
    lasting = [*accumulate(reversed(noises), min)][::-1]
    added = {
        name: after - before
        for name, before, after in zip(order, [0.0, *lasting], lasting, strict=False)
    }
    found = max(order, key=lambda name: min(alone[name], added[name]))
    return found, kept_db([found])


def _apart(names: Sequence[str], kept_db: Callable[[Collection[str]], float]) -> dict[str, float]:
    """What the outputs keep with the error of each of some names. Of many, neighbours are tried
    together first, and those of the groups that cost most apart.
    """
    while True:
        left = {group: kept_db(group) for group in parts(names)}
        if len(left) == len(names):
            return {name: kept for (name,), kept in left.items()}
        taken = {
            name for group in sorted(left, key=lambda group: left[group])[:APART] for name in group
        }
        names = [name for name in names if name in taken]


def _noise(kept_db: float) -> float:
    """The power of the noise that leaves so much of a signal of 1."""
    return float(10 ** (-max(kept_db, WORST_DB) / 10))


def parts(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Neighbours put together, so that there are PARTS at the most."""
    size = -(-len(names) // PARTS)
    return [tuple(names[start : start + size]) for start in range(0, len(names), size)]


def _told(found: Seen, whole: Explanation) -> list[str]:
    shape = "x".join(map(str, found.shape)) or "scalar"
    layer = found.layer
    where = f"layer {layer}" if layer else "an input"
    lines = [f"{_share(found, whole)} {where}: tensor '{found.name}' ({shape}){_among(found)}"]
    if layer and layer.source:
        lines.append(f"  in the source: {layer.source}")
    lines.append(f"  in the artifact: {found.artifact}")
    if not found.is_finite:
        return [*lines, f"  NaN or infinity arises there, in case '{whole.case}'"]
    lines.append(
        f"  SNR {_db(found.before_db)} before it, {_db(found.after_db)} after it; on the same "
        f"inputs the float layer is {_db(found.own_db)} from it"
    )
    if found.alone_db is not None and whole.outputs_db is not None:
        lines.append(
            f"  with this error alone the outputs keep {_db(found.alone_db)}, with all errors "
            f"{_db(whole.outputs_db)} (case '{whole.case}')"
        )
    return lines


def _share(found: Seen, whole: Explanation) -> str:
    """How much of the outputs' error it is, as the beginning of a sentence."""
    if found.alone_db is None or whole.outputs_db is None:
        return "the error begins in"
    if found.alone_db <= whole.outputs_db + HALF_DB:
        return "the error comes from"
    return "the error has many sources; that with most effect is"


def _among(found: Seen) -> str:
    """The operators around the layer that the artifact shows no tensor between."""
    others = [str(node) for node in found.nodes if node is not found.layer]
    if not others:
        return ""
    if len(others) >= MOST_NAMED:
        return f", or one of the {len(others)} operators from {found.nodes[0]} to {found.nodes[-1]}"
    return f", or {', '.join(others)}, which the artifact has no tensor between"


def _db(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 1) if math.isfinite(value) else str(value)
    return value
