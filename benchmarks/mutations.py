"""Mutants x targets: what the gate rejects of artifacts that are wrong in a known way.

Semantic mutants are built by the targets' own conversion and quantization from a float ONNX model
that computes something else, the miscalibrated from samples of another range; each is judged by
the stage `verify` against the honest model's reference. The tables go to benchmarks/results;
`--tables` only writes them again. Ends with an error where an honest artifact was rejected, or a
semantic mutant was not.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from mutants import matrix, plans, results, tables
from mutants.bench import bench
from mutants.rescale import RANGES
from mutants.semantic import SEMANTIC

from crosscast.targets import TARGETS

CONFIGS = HERE.parent / "configs"
MODELS = {
    **{
        name: CONFIGS / f"{name}.yaml"
        for name in (
            "digits-vae", "cifar-resnet8", "silero-vad", "basic-pitch", "efficientnet-lite0",
            "minilm",
        )
    },
    "lstm": HERE / "mutants/lstm.yaml",
}  # fmt: skip
"""Configs by name: convolutional and recurrent networks, a transformer; images, sound, text."""

DAMAGED = ("digits-vae", "lstm", "silero-vad")
"""Models small enough to be judged hundreds of times."""

FLIPS = 8
"""Of each bit of each dtype in each file."""


def main() -> None:
    """Run what is asked for, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="MODEL", choices=MODELS, default=list(MODELS))
    parser.add_argument("--target", "-t", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--jobs", "-j", type=int, default=2, help="steps at a time")
    parser.add_argument("--work", type=Path, default=HERE.parent / ".cache/mutations")
    parser.add_argument("--tables", action="store_true", help="write the tables of what was run")
    chosen = parser.parse_args()
    if not chosen.tables:
        for name in chosen.only:
            run(name, chosen.target, work=chosen.work, jobs=chosen.jobs)
    rows = results.read()
    tables.write(rows)
    wrong = results.alarms(rows) + results.survivors(rows)
    print("\n".join([tables.summary(rows), *map(str, wrong)]))
    sys.exit(bool(wrong))


def run(name: str, targets: list[str], *, work: Path, jobs: int) -> None:
    """Build and judge one model's mutants."""
    started = time.monotonic()
    plan = plans.honest(plans.configured(MODELS[name], targets))
    work.mkdir(parents=True, exist_ok=True)
    with bench(work, jobs=jobs) as place:
        results.add(name, matrix.honest_rows(place, plan, model=name))
        if name in DAMAGED:
            results.add(name, damage=matrix.damage(place, plan, flips=FLIPS))
        semantic, effects = matrix.semantic_rows(place, plan, list(SEMANTIC), model=name)
        results.add(name, semantic, effects=effects)
        results.add(name, list(matrix.calibration_rows(place, plan, list(RANGES), model=name)))
    print(f"{name}: {len(semantic)} mutants, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
