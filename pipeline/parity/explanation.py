"""Where an artifact's error comes from, and how that is told. Pure.

Errors travel: behind a wrong layer everything is wrong. So each tensor is judged by its own error:
what it differs by from what the float layer makes of the same inputs, those that the artifact
itself has computed. Own errors are not all of the same consequence, so the greatest are tried, each
alone, in the float network: the one that costs the outputs most is where the error comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

TRIED = 8
"""Tensors whose own error is tried alone; bounds the time."""

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


def candidates(seen: Sequence[Seen]) -> list[Seen]:
    """The tensors whose own error is greatest, greatest first; those that have none left out."""
    wrong = [one for one in seen if one.own_db < math.inf]
    return sorted(wrong, key=lambda one: one.own_db)[:TRIED]


def culprit(seen: Sequence[Seen], alone: Mapping[str, float]) -> Seen | None:
    """Where the error comes from: the first tensor that is no number of its own accord; else that
    whose own error costs the outputs most. None where none differs.

    alone: what the outputs keep with the own error of one tensor, by its name, in dB.
    """
    broken = next((one for one in seen if not one.is_finite), None)
    if broken is not None:
        return broken
    tried = [replace(one, alone_db=alone[one.name]) for one in seen if one.name in alone]
    return min(tried, key=lambda one: (alone[one.name], one.own_db), default=None)


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
    return f"the error has many sources; of the {TRIED} greatest, that with most effect is"


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
