"""The reference evaluator of Core ML packages against torch's own eager inference, in the same run.

Prints the median times of the example's packages as ratios of torch's in float32, on the same
batch and with the same number of threads; imports and loading are left out. Fails where one is
over LIMIT.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from crosscast.targets.families import coreml

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "efficientnet-lite0.yaml"
ZOO = CONFIG.parent / "zoo"
TARGETS = ("coreml-fp16", "coreml-fp32")
BATCHES = (1, 4)
WARM = 3
LIMIT = 3.0

Run = Callable[[np.ndarray], object]


def main() -> None:
    """Build the packages, measure all in turn, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        runs = {"torch": eager(), **packages(Path(scratch))}
        print(f"{arguments.threads} threads, {arguments.rounds} rounds")
        ratios = [ratio for batch in BATCHES for ratio in measured(runs, batch, arguments.rounds)]
    if max(ratios) > LIMIT:
        sys.exit(f"over {LIMIT:g} times torch's time")


def eager() -> Run:
    """The network in torch."""
    sys.path.insert(0, str(ZOO))
    import efficientnet

    model = efficientnet.trained()

    def run(image: np.ndarray) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(image)).numpy()

    return run


def packages(scratch: Path) -> dict[str, Run]:
    """The built packages in the evaluator, by target."""
    text = CONFIG.read_text().partition("targets:")[0].replace("zoo/", f"{ZOO}/")
    config = scratch / "config.yaml"
    config.write_text(f"{text}targets: {{{', '.join(f'{name}: {{}}' for name in TARGETS)}}}\n")
    command = [sys.executable, "-m", "crosscast.pipeline.cli", "build", str(config)]
    subprocess.run([*command, "--out", str(scratch)], check=True, stdout=subprocess.DEVNULL)
    return {name: evaluated(scratch / "efficientnet-lite0/1.0.0" / name) for name in TARGETS}


def evaluated(artifact: Path) -> Run:
    """A package in the evaluator."""
    session = coreml.evaluated(artifact=artifact)
    return lambda image: session.run({"image": image})


def measured(runs: dict[str, Run], batch: int, rounds: int) -> list[float]:
    """The ratios of all runs but the first to that one, printed on the way."""
    image = np.random.default_rng(0).uniform(-1, 1, (batch, 3, 224, 224)).astype(np.float32)
    took: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARM + rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run(image)
            if number >= WARM:
                took[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    base, *others = medians.values()
    for name, median in medians.items():
        print(f"batch {batch}  {name:<12}{median * 1000:7.1f} ms  ratio {median / base:.2f}")
    return [median / base for median in others]


if __name__ == "__main__":
    main()
