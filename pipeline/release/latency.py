"""How the time of a call has changed between two artifacts, measured so that noise cannot decide.

Both run in turns in one process, and each pair of samples gives a ratio: what slows the machine
slows both of a pair. The interval around the median of the ratios is that of the sign test (order
statistics; Conover, Practical Nonparametric Statistics, 3rd ed., 3.2): it assumes nothing of how
the noise is distributed.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crosscast.pipeline.executors.local import LocalExecutor, Task
from crosscast.pipeline.planner import runtime_options
from crosscast.pipeline.runner import Settings
from crosscast.pipeline.stages import STAGES
from crosscast.pipeline.store import Store
from crosscast.targets import TARGETS

CONFIDENCE = 0.99
"""Of the interval. A release has some ten targets: at 95 %, every other one would be refused for
nothing sooner or later."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """before, after: medians, in seconds a call. ratio: median of after / before, which lies
    between low and high with CONFIDENCE. unmeasured: why there are no numbers.
    """

    before: float = 0.0
    after: float = 0.0
    ratio: float = 1.0
    low: float = 0.0
    high: float = math.inf
    unmeasured: str = ""


def compared(before: Sequence[float], after: Sequence[float]) -> Timing:
    """What pairs of samples tell. With too few for the interval, it has no ends."""
    ratios = sorted(late / early for early, late in zip(before, after, strict=True))
    rank = _rank(len(ratios))
    return Timing(
        before=statistics.median(before),
        after=statistics.median(after),
        ratio=statistics.median(ratios),
        low=ratios[rank - 1] if rank else 0.0,
        high=ratios[-rank] if rank else math.inf,
    )


def _rank(count: int) -> int:
    """The greatest r for which the r-th lowest and r-th highest of `count` values have their median
    between them with CONFIDENCE; 0 where there is none.
    """
    tail, rank = 0.0, 0
    while True:
        tail += math.comb(count, rank) / 2**count  # P(at most `rank` of them are below)
        if 2 * tail > 1 - CONFIDENCE or rank > count // 2:
            return rank
        rank += 1


def measure(
    pairs: Mapping[str, tuple[Path, Path]], *, store: Store, settings: Settings
) -> dict[str, Timing]:
    """Time the two artifacts of each target, the earlier one first; one target after another."""
    found = {}
    with (
        store.workspace() as workspace,
        LocalExecutor(cache=store.root) as executor,
    ):
        for name, (before, after) in pairs.items():
            target = TARGETS[name]
            out = workspace.directory(f"benchmark {name}")
            outcome = executor.run(
                Task(
                    id=name,
                    module=STAGES["benchmark"],
                    toolchain=target.runtime,
                    inputs={"before": before, "after": after},
                    options=runtime_options(target),
                    out=out,
                    log=store.log(str(after.absolute()), "benchmark"),
                    limits=settings.limits,
                )
            )
            if outcome.status != "ok":
                found[name] = Timing(unmeasured=f"the measurement failed: {outcome.message}")
                continue
            times = json.loads((out / "times.json").read_text(encoding="utf-8"))
            found[name] = (
                Timing(unmeasured=times["unmeasured"])
                if "unmeasured" in times
                else compared(times["before"], times["after"])
            )
    return found
