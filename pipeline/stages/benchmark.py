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

SAMPLE = 2e-3
"""Seconds that one sample takes at least: calls that are shorter are timed by several, since the
clock and the interpreter add microseconds to each."""

LEAST_PAIRS = 8
"""Of samples: with fewer, no interval of a median has 99 % confidence (see `latency`)."""

MOST_SECONDS = 60.0
"""After which even too few pairs are enough."""


class _Unmeasured(Exception):
    """Why the two cannot be timed against each other."""


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write `times.json`: under `before` and `after`, seconds of a call, pair by pair, or under
    `unmeasured` why there are none.

    inputs: the artifacts `before` and `after`. options: open: reference to the target's function;
    narrowed: dtypes that its format has in place of others; seconds: to measure for.
    """
    try:
        before, after = (_Call.of(inputs[side], options) for side in SIDES)
        if before.shapes != after.shapes:
            raise _Unmeasured("their first test vectors differ in names, shapes or dtypes")
        times = _measure(before, after, seconds=options["seconds"])
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
        self.repeats = 1

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
        """Run until it is warm, and find how many calls make a sample."""
        for _ in range(3):
            took = self.seconds()
        self.repeats = max(1, math.ceil(SAMPLE / max(took, 1e-7)))

    def seconds(self) -> float:
        """Of one call, on the mean of a sample."""
        start = time.perf_counter()
        for _ in range(self.repeats):
            self.session.run(self.inputs)
        return (time.perf_counter() - start) / self.repeats


def _vectors(artifact: Path, manifest: Mapping[str, Any]) -> Iterator[Vector]:
    return read_vectors(artifact / VECTORS, manifest["vectors"]["cases"])


def _measure(before: _Call, after: _Call, *, seconds: float) -> tuple[list[float], list[float]]:
    """Samples of both, in turns: who goes first alternates, so that neither gains by it."""
    for call in (before, after):
        call.settle()
    times: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    while True:
        passed = time.perf_counter() - start
        if passed > MOST_SECONDS or (passed > seconds and len(times[0]) >= LEAST_PAIRS):
            return times
        pair = list(zip(times, (before, after), strict=True))
        for samples, call in pair if len(times[0]) % 2 else reversed(pair):
            samples.append(call.seconds())
