"""Benchmark: two artifacts of one target, timed in turns in one process."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosscast.pipeline import manifest as manifests
from crosscast.pipeline.errors import ToolchainError
from crosscast.pipeline.manifest import VECTORS, write_json
from crosscast.pipeline.parity.io import given
from crosscast.pipeline.parity.vectors import Vector, read_vectors
from crosscast.pipeline.signature import Arrays
from crosscast.pipeline.stages import StageResult, function
from crosscast.pipeline.worker.usercode import described
from crosscast.targets.base import Session, remark

TIMES = "times.json"
SIDES = ("before", "after")

PAIRS = 60
"""Of samples: with 99 % confidence their median is between the 20th and the 41st."""

LEAST_PAIRS = 8
"""With fewer, no interval of a median has 99 % confidence."""

BURST = 5e-4
"""Seconds that calls are timed together for: the clock and the interpreter add microseconds."""

BURSTS = 5
"""Of a sample, which is the least of them: what the machine does beside only ever adds, and mostly
spares one of so many."""

LONG = 2e-2
"""Seconds of a call that is no burst but takes its share of what the machine does beside."""

MOST_SECONDS = 30.0
"""After which fewer pairs are enough."""


class _Unmeasured(Exception):
    """Why the two cannot be timed against each other."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write `times.json`: under `before` and `after`, seconds of a call, pair by pair, or under
    `unmeasured` why there are none.

    inputs: the artifacts `before` and `after`. options: open: reference to the target's function;
    narrowed: dtypes that its format has in place of others.
    """
    try:
        before, after = (_Call.of(inputs[side], options) for side in SIDES)
        if before.shapes != after.shapes:
            raise _Unmeasured("their first test vectors differ in names, shapes or dtypes")
        times = _measure(before, after)
        found: dict[str, Any] = dict(zip(SIDES, times, strict=True))
    except _Unmeasured as reason:
        found = {"unmeasured": str(reason)}
    write_json(out / TIMES, found)
    return StageResult()


class _Call:
    """A session with the inputs of its artifact's first test vector."""

    def __init__(self, session: Session, inputs: Arrays) -> None:
        self.session, self.inputs = session, inputs
        self.shapes = {name: (array.shape, array.dtype.str) for name, array in inputs.items()}
        self.repeats, self.bursts = 1, 1

    @classmethod
    def of(cls, artifact: Path, options: Mapping[str, Any]) -> _Call:
        """Raises _Unmeasured where it does not run here in its own runtime."""
        manifest = manifests.read(artifact)
        try:
            session: Session | None = function(options["open"])(artifact=artifact)
        except (ToolchainError, ImportError, MemoryError):
            raise
        except Exception as error:
            raise _Unmeasured(f"it does not load: {described(error)}") from error
        if session is None:
            raise _Unmeasured("no runtime for it on this host")
        if told := remark(session):
            raise _Unmeasured(told)
        vector = next(_vectors(artifact, manifest), None)
        if vector is None:
            raise _Unmeasured("it has no test vectors")
        fed = {tensor["name"]: vector.case.arrays[tensor["name"]] for tensor in manifest["inputs"]}
        if manifest["io"] is not None or options["narrowed"]:
            fed = given(fed, tensors=session.inputs)
        return cls(session, fed)

    def settle(self) -> None:
        """Run until it is warm, and find how many calls make a burst."""
        took = min(self.seconds() for _ in range(BURSTS))
        self.repeats = max(1, math.ceil(BURST / max(took, 1e-7)))
        self.bursts = BURSTS if took < LONG else 1

    def seconds(self) -> float:
        """Of one call, in the least of some bursts."""
        return min(self._burst() for _ in range(self.bursts))

    def _burst(self) -> float:
        start = time.perf_counter()
        for _ in range(self.repeats):
            self.session.run(self.inputs)
        return (time.perf_counter() - start) / self.repeats


def _vectors(artifact: Path, manifest: Mapping[str, Any]) -> Iterator[Vector]:
    return read_vectors(artifact / VECTORS, manifest["vectors"]["cases"])


def _measure(before: _Call, after: _Call) -> tuple[list[float], list[float]]:
    """Samples of both, in turns: who goes first alternates, so that neither gains by it."""
    for call in (before, after):
        call.settle()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + MOST_SECONDS
    for index in range(PAIRS):
        pair = list(zip(times, (before, after), strict=True))
        for samples, call in pair if index % 2 else reversed(pair):
            samples.append(call.seconds())
        if time.perf_counter() > end and len(times[0]) >= LEAST_PAIRS:
            break
    return times
