"""Stage: an artifact damaged where it is stored, time and again, and what the gate finds of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crosscast.pipeline.manifest import write_json
from crosscast.pipeline.parity.vectors import read_reference, read_signature
from crosscast.pipeline.parity.verdict import Verdict
from crosscast.pipeline.stages import StageResult
from crosscast.pipeline.stages.verify import verify
from crosscast.targets.base import NOTES
from mutants.saved import Array, Saved, opened

FOUND = "found.json"

Random = np.random.Generator
Damage = Callable[[Saved, Random], bool]


def run(*, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> StageResult:
    """Write FOUND: {"bits": {dtype: {bit: [found, all]}}, "files": {damage: [found, all]}}.

    bits: of single bits that were flipped, 0 the least significant one, `flips` of each in weights
    chosen at random. files: of FILES, where they apply.
    """
    bench = _Bench(inputs, {name: it for name, it in options.items() if name != "flips"}, out)
    honest = opened(inputs["model"])
    dtypes = sorted({array.dtype.name for array in honest.weights.values()})
    bits = {
        dtype: {
            bit: bench.count(_flipped(dtype, bit), times=options["flips"])
            for bit in range(8 * np.dtype(dtype).itemsize)
        }
        for dtype in dtypes
    }
    files = {name: bench.count(damage, times=1) for name, damage in FILES.items()}
    write_json(out / FOUND, {"bits": bits, "files": files})
    return StageResult(notes={"files": files})


class _Bench:
    """Damages a fresh copy each time, and has it judged."""

    def __init__(self, inputs: Mapping[str, Path], options: Mapping[str, Any], out: Path) -> None:
        self.inputs, self.options, self.out = inputs, options, out
        self.random = np.random.default_rng(0)

    def count(self, damage: Damage, *, times: int) -> list[int]:
        """How often the gate found it, and how often it was done."""
        verdicts = [self._judged(damage) for _ in range(times)]
        done = [found for found in verdicts if found is not None]
        return [sum(found.status == "failed" for found in done), len(done)]

    def _judged(self, damage: Damage) -> Verdict | None:
        saved = opened(self.inputs["model"])
        if not damage(saved, self.random):
            return None
        reference, tree = self.inputs["reference"], self.out / "damaged"
        tree.mkdir()
        if (self.inputs["model"] / NOTES).exists():
            shutil.copyfile(self.inputs["model"] / NOTES, tree / NOTES)
        saved.write(tree)
        found = verify(
            artifact=tree,
            signature=read_signature(reference),
            vectors=lambda: read_reference(reference),
            options={**self.options, "explain": ""},
            floats=self.inputs.get("floats"),
        )
        shutil.rmtree(tree)
        return found


def _flipped(dtype: str, bit: int) -> Damage:
    def damage(saved: Saved, random: Random) -> bool:
        arrays = [array for array in saved.weights.values() if array.dtype.name == dtype]
        sizes = np.array([array.size for array in arrays])
        flat = arrays[random.choice(len(arrays), p=sizes / sizes.sum())].reshape(-1)
        place = random.integers(flat.size)
        bits = flat[place : place + 1].view(f"u{flat.itemsize}")
        bits ^= bits.dtype.type(1 << bit)
        return True

    return damage


def _largest(saved: Saved) -> Array:
    return max(saved.weights.values(), key=lambda array: array.size)


def _no_number(value: float) -> Damage:
    def damage(saved: Saved, random: Random) -> bool:
        floats = [it for it in saved.weights.values() if it.dtype.kind == "f"]
        if not floats:
            return False
        flat = floats[random.integers(len(floats))].reshape(-1)
        flat[random.integers(flat.size)] = value
        return True

    return damage


def _half_zeroed(saved: Saved, random: Random) -> bool:  # noqa: ARG001
    flat = _largest(saved).reshape(-1)
    flat[flat.size // 2 :] = 0
    return True


def _exchanged(saved: Saved, random: Random) -> bool:  # noqa: ARG001
    """The first two weights of the same shape and dtype."""
    seen: dict[Any, Array] = {}
    for array in saved.weights.values():
        other = seen.setdefault((array.shape, array.dtype), array)
        if other is not array and array.ndim > 1 and not np.array_equal(array, other):
            kept = other.copy()
            other[...], array[...] = array, kept
            return True
    return False


def _scaled(saved: Saved, random: Random) -> bool:  # noqa: ARG001
    """The scales of the largest quantized weight that has some, or else the largest weight."""
    if saved.scales:
        saved.scales[max(saved.scales, key=lambda name: saved.weights[name].size)][...] *= 1.25
        return True
    if _largest(saved).dtype.kind == "f":
        _largest(saved)[...] *= 1.25
        return True
    return False


FILES: Mapping[str, Damage] = {
    "NaN for a weight": _no_number(np.nan),
    "infinity for a weight": _no_number(np.inf),
    "half of the largest weight zeroed": _half_zeroed,
    "two weights exchanged": _exchanged,
    "a scale a quarter too large": _scaled,
}
"""Each gives False, and changes nothing, where the file has nothing of its kind."""
