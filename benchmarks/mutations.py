"""Mutants x targets: what the gate rejects of artifacts that are wrong in a known way.

Semantic mutants are built by the targets' own conversion and quantization from a float ONNX model
that computes something else, the miscalibrated from samples of another range; each is judged by
the stage `verify` against the honest model's reference. What is found of a model on a target is
written to benchmarks/results as soon as it is known, and steps that are done are not done again: a
run that was ended goes on where it was. `--tables` only writes the tables again. Ends with an error
where an honest artifact was rejected, or a semantic mutant was not.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from mutants import matrix, plans, results, tables
from mutants.bench import Bench, bench
from mutants.rescale import RANGES
from mutants.semantic import SEMANTIC

from crosscast.targets import TARGETS

CONFIGS = HERE.parent / "configs"

SPREAD = (
    "BGR for RGB", "LeakyRelu for Relu", "Relu for Relu6", "activation missing", "channels swapped",
    "classes one off", "constant output", "dropout left on", "last bias dropped",
    "middle bias dropped", "one off", "pads shifted", "stale batch-norm statistics",
    "transposed weights", "wrong epsilon",
)  # fmt: skip
"""Of the semantic mutations, for models that take minutes each to build: inputs, layers and outputs
have some, the least wrong ones are among them."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is built of a model.

    config: as it is delivered; its own targets do not matter. mutations: the semantic ones.
    damaged: whether its files are, which judges it hundreds of times.
    """

    config: Path
    targets: Sequence[str] = tuple(TARGETS)
    mutations: Sequence[str] = tuple(SEMANTIC)
    damaged: bool = False


MODELS = {
    "digits-vae": Model(config=CONFIGS / "digits-vae.yaml", damaged=True),
    "lstm": Model(config=HERE / "mutants/lstm.yaml", damaged=True),
    "gpt2": Model(config=HERE / "mutants/gpt2.yaml"),
    "cifar-resnet8": Model(config=CONFIGS / "cifar-resnet8.yaml"),
    "silero-vad": Model(config=CONFIGS / "silero-vad.yaml"),
    "basic-pitch": Model(config=CONFIGS / "basic-pitch.yaml", mutations=SPREAD),
    "minilm": Model(config=CONFIGS / "minilm.yaml", mutations=SPREAD),
    "efficientnet-lite0": Model(config=CONFIGS / "efficientnet-lite0.yaml", mutations=SPREAD),
}
"""By name: convolutional and recurrent networks, a transformer; images, sound, text."""

GROUPS = ("semantic", "calibration", "damage")
"""Of mutants. What is honest is built with any of them."""

FLIPS = 8
"""Of each bit of each dtype in each file."""

TIMEOUT = 7200
"""Seconds for a step: it does the work of all mutants."""


def main() -> None:
    """Run what is asked for, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="MODEL", choices=MODELS, default=list(MODELS))
    parser.add_argument("--target", "-t", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--mutation", "-m", nargs="+", choices=SEMANTIC, default=list(SEMANTIC))
    parser.add_argument("--group", "-g", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--jobs", "-j", type=int, default=2, help="steps at a time")
    parser.add_argument("--work", type=Path, default=HERE.parent / ".cache/mutations")
    parser.add_argument("--tables", action="store_true", help="write the tables of what was run")
    chosen = parser.parse_args()
    if not chosen.tables:
        chosen.work.mkdir(parents=True, exist_ok=True)
        with bench(chosen.work, jobs=chosen.jobs, timeout=TIMEOUT) as place:
            for name, target in itertools.product(chosen.only, chosen.target):
                if target in MODELS[name].targets:
                    run(place, name, target, chosen.group, chosen.mutation)
    rows = results.read()
    tables.write(rows)
    wrong = results.alarms(rows) + results.survivors(rows)
    print("\n".join([tables.summary(rows), *map(str, wrong)]))
    sys.exit(bool(wrong))


def run(
    place: Bench, name: str, target: str, groups: Collection[str], mutations: Collection[str]
) -> None:
    """Build and judge one model's mutants on one target; what was found is kept at once."""
    started = time.monotonic()
    model = MODELS[name]
    plan = plans.honest(plans.configured(model.config, [target]))
    (honest,) = matrix.honest_rows(place, plan, model=name)
    results.add(name, [honest])
    said = f"honest {honest.status}"
    if honest.status == "passed" and "semantic" in groups:
        chosen = [mutation for mutation in model.mutations if mutation in mutations]
        rows, effects = matrix.semantic_rows(place, plan, chosen, model=name)
        results.add(name, rows, effects=effects)
        said += f", {sum(map(results.rejected, rows))} of {len(rows)} mutants rejected"
    if honest.status == "passed" and "calibration" in groups:
        results.add(name, list(matrix.calibration_rows(place, plan, list(RANGES), model=name)))
    if honest.status == "passed" and "damage" in groups and model.damaged:
        results.add(name, damage=matrix.damage(place, plan, flips=FLIPS))
    print(f"{name}, {target}: {said}, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
