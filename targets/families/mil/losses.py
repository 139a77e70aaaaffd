"""What fp16 does not hold of a ML Program's values: which operator, which value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from crosscast.targets.families.mil.program import Operation, Port

GREATEST = 65504.0
"""The greatest number of fp16."""

CAST = "_cast_fp16"
"""What coremltools adds to the name of a value as it brings it to fp16."""

BEARABLE = 2.0**-9
"""The relative error, by root mean square, that rounding to fp16 may leave. Numbers in its normal
range keep 2^-11 of themselves, so four times that is the loss of those near 6e-8 and below."""

DIVIDING = frozenset(("inverse", "log", "pow", "real_div", "rsqrt"))
"""Operators that make infinity of zero."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What an operator gives and fp16 does not hold.

    kind: overflow (too large), underflow (so small that most of it is lost), undefined (no number
    at all, whatever the precision, since a constant or an input was lost before). value: the
    greatest magnitude, NaN where there is none.
    """

    operation: str
    name: str
    kind: Literal["overflow", "underflow", "undefined"]
    value: float

    def __str__(self) -> str:
        """As in "mul 'x_3' overflows fp16 (86210)"."""
        where = f"{self.operation} '{self.name.removesuffix(CAST)}'"
        if self.kind == "undefined":
            return f"{where} gives what is no number"
        return f"{where} {self.kind}s fp16 ({self.value:.4g})"


@dataclass
class Watch:
    """Collects losses as an evaluator runs, which must be an ideal one.

    declared: the dtype of the values that are looked at: fp16, or fp32 for what a program that
    computes in fp32 would lose.
    """

    declared: Literal["fp16", "fp32"] = "fp16"
    found: dict[str, Loss] = field(default_factory=dict)

    def __call__(self, operation: Operation, port: Port, value: object) -> None:
        """Look at what an operator gave."""
        if port.type.dtype != self.declared or not isinstance(value, torch.Tensor):
            return
        seen = self.found.get(port.name)
        lost = loss(value)
        if lost is None or (seen is not None and not lost[1] > seen.value):
            return
        kind, greatest = lost
        if kind != "undefined" or operation.type in DIVIDING or bool(value.isnan().any()):
            self.found[port.name] = Loss(
                operation=operation.type, name=port.name, kind=kind, value=greatest
            )


def loss(value: torch.Tensor) -> tuple[Literal["overflow", "underflow", "undefined"], float] | None:
    """What fp16 does to a tensor of float32, and its greatest finite magnitude; None if it bears
    it. Infinities that are there already count as undefined.
    """
    finite = value[value.isfinite()]
    greatest = float(finite.abs().max()) if finite.numel() else float("nan")
    if finite.numel() < value.numel():
        return "undefined", greatest
    if not finite.numel() or greatest == 0:
        return None
    rounded = finite.half().float()
    if not bool(rounded.isfinite().all()):
        return "overflow", greatest
    scaled = finite / greatest  # squares of what is small would underflow themselves
    error = (rounded - finite) / greatest
    if float(error.square().mean()) > BEARABLE**2 * float(scaled.square().mean()):
        return "underflow", greatest
    return None
