"""What of a ML Program computes in fp16: as much as its outputs bear.

Decided by trial in the reference evaluator: fp16 loses what is greater than 65504, what is smaller
than 6e-8, and 1/4096 of any factor, and only the outputs tell whether a model bears that. What they
should be says the program that computes in fp32 with the same weights. It tells as well which
operators have values that fp16 does not hold: those are kept in fp32 before anything else is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crosscast.pipeline.errors import StageError, Unproven
from crosscast.pipeline.signature import Arrays, Signature
from crosscast.targets.families import coreml

if TYPE_CHECKING:
    from crosscast.pipeline.parity.samples import Case
    from crosscast.targets.base import Session

Compute = Literal["float16", "mixed", "float32"]

HEAVY = frozenset(("conv", "conv_transpose", "gather", "gru", "linear", "lstm", "matmul", "rnn"))
"""What nearly all time and memory go to."""

RUNGS: Mapping[Compute, str] = {
    "float16": "",
    "mixed": "only products and convolutions are computed in fp16, all else in fp32 "
    "(compute: mixed)",
    "float32": "everything is computed in fp32, so not on the Neural Engine (compute: float32)",
}
"""The choices, most fp16 first, and what is to be said of each."""

SEED = 2
"""Parity's is 0, calibration's 1: what a choice was made on is not what it is judged on."""

DRAWN = 2
"""Inputs that are drawn where there are no real ones."""

REAL = 8
"""Real samples that are tried."""

MARGIN = math.sqrt(2)
"""What the trial must be better by than the limits, which other inputs come nearer to (3 dB)."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a program computes in.

    kept: the values whose operators, and those that read them, compute in fp32 all the same, and
    what fp16 would do to them.
    """

    compute: Compute
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """What there is to say of it; empty for what computes in fp16 throughout."""
        parts = [RUNGS[self.compute]] if RUNGS[self.compute] else []
        if self.kept and self.compute != "float32":
            parts.append(f"kept in fp32: {'; '.join(coreml.few(list(self.kept.values())))}")
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """A case, and what the program gives in fp32.

    noise: by output, what rounding the inputs to fp16 changes of it.
    """

    case: Case
    answers: Arrays
    noise: Mapping[str, float]


class Trial:
    """Cases to try packages on, and what they should answer."""

    def __init__(self, tried: list[_Tried]) -> None:
        self._tried = tried

    @classmethod
    def of(cls, artifact: Path, signature: Signature, samples: Path | None) -> Trial:
        """Nothing to try where the evaluator cannot run the package on any of the inputs.

        artifact: computes in fp32. samples: tree of real ones, in the model's layout.
        """
        try:
            session = coreml.evaluated(artifact=artifact)
        except (StageError, Unproven):
            return cls([])
        return cls(list(_answered(session, _cases(signature, samples))))

    def choices(self, first: Compute, wide: Path) -> Iterator[Choice]:
        """What may be tried, most fp16 first, from `first` to what computes in fp32 altogether.

        wide: the artifact that does. What is kept is found out when it is asked for.
        """
        yield Choice(compute=first)
        kept = self._lost(wide)
        rungs = list(RUNGS)
        left = rungs[rungs.index(first) + (0 if kept else 1) :]
        yield from (Choice(compute=rung, kept=kept) for rung in left)

    def _lost(self, wide: Path) -> dict[str, str]:
        """What of the values of a program in fp32 fp16 would not hold, by their names."""
        found: dict[str, str] = {}
        cases = [one.case.arrays for one in self._tried]
        for arrays in cases:
            found |= _out_of_range(arrays)
        lost = coreml.losses(artifact=wide, cases=cases, declared="fp32")
        return found | {one.name: str(one) for one in lost}

    def passes(self, artifact: Path) -> bool:
        """Whether a package is near enough, computed as it would be."""
        from crosscast.pipeline.parity.conditioning import floor_db
        from crosscast.pipeline.parity.metrics import Extent, compare
        from crosscast.pipeline.parity.tolerance import TOLERANCES, excess, is_gated

        if not self._tried:
            return True
        limits = TOLERANCES["fp16"]
        strict = replace(
            limits,
            min_snr_db=limits.min_snr_db + 20 * math.log10(MARGIN),
            max_error=limits.max_error / MARGIN,
        )
        usual = [one for one in self._tried if one.case.origin != "adversarial"] or self._tried
        try:
            session = coreml.evaluated(artifact=artifact)
            answered = [(one, coreml.answers(session, one.case.arrays)) for one in self._tried]
        except (StageError, Unproven):
            return False
        for one, found in answered:
            for name, wanted in one.answers.items():
                typical = Extent.typical([Extent.of(each.answers[name]) for each in usual])
                floor = floor_db(one.noise.get(name), own=Extent.of(wanted), typical=typical)
                gated = is_gated(
                    "synthetic", precision="fp16", has_real=False, floor_db=floor, limits=limits
                )
                numbers = compare(wanted, found[name], typical=typical)
                if (gated or numbers.problem) and excess(numbers, strict):
                    return False
        return True


def _out_of_range(arrays: Arrays) -> dict[str, str]:
    """The inputs whose values fp16 does not hold."""
    import torch

    from crosscast.targets.families.mil.losses import loss

    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    lost = {name: loss(torch.from_numpy(array)) for name, array in floats.items()}
    return {
        name: f"input '{name}' {told[0]}s fp16 ({told[1]:.4g})"
        for name, told in lost.items()
        if told is not None and told[0] != "undefined"
    }


def _cases(signature: Signature, samples: Path | None) -> Iterator[Case]:
    """Real cases or, without samples, drawn ones; and adversarial ones."""
    from crosscast.pipeline.parity.samples import adversarial, read_cases, synthetic

    real = islice(read_cases(samples), REAL) if samples else ()
    drawn = () if samples else islice(synthetic(signature, seed=SEED), DRAWN)
    return chain(real, drawn, adversarial(signature))


def _answered(session: Session, cases: Iterable[Case]) -> Iterator[_Tried]:
    from crosscast.pipeline.parity.conditioning import noise, rounded

    for case in cases:
        try:
            answers = coreml.answers(session, case.arrays)
            again = coreml.answers(session, rounded(case.arrays, precision="fp16", seed=SEED))
        except (StageError, Unproven):  # parity says so, with the case's name
            continue
        measured = noise(answers, again) if case.origin == "adversarial" else {}
        yield _Tried(case=case, answers=answers, noise=measured)
