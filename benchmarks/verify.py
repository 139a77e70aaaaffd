"""What `verify` costs beside a bare loop over the runtime, in the same run.

Builds each artifact, repeats its real cases, and times the whole verdict (audit, loading, reading,
running, measuring, judging) against a loop that loads the artifact in its runtime, reads the inputs
from the same file and runs them one by one, in one thread as well. Prints medians and the ratio.
Fails where it is over LIMIT and a run takes SHORTEST or more: below, most of the time is what
Python takes to call anything.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import onnxruntime

from crosscast.pipeline.parity.tensors import open_tensors
from crosscast.pipeline.parity.vectors import Vector, read_vectors, write_vectors
from crosscast.pipeline.planner import runtime_options
from crosscast.pipeline.signature import Signature
from crosscast.pipeline.stages.verify import verify
from crosscast.targets import TARGETS

CONFIGS = Path(__file__).parent.parent / "configs"
MODELS = {"efficientnet-lite0": 60, "minilm": 200, "silero-vad": 1000}
"""By config: how many samples are verified, beside one audit of the weights."""
TARGET = "onnx"
LIMIT = 1.3
SHORTEST = 1e-3
"""Seconds of a run."""


def main() -> None:
    """Measure each model, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        over = [name for name in arguments.only if measured(name, arguments.rounds, Path(scratch))]
    if over:
        sys.exit(f"over {LIMIT:g} times a bare loop: {', '.join(over)}")


def measured(name: str, rounds: int, scratch: Path) -> bool:
    """Print a model's times; whether they are over the limit."""
    artifact = built(name, scratch)
    manifest = json.loads((artifact / "manifest.json").read_text())
    count = MODELS[name]
    entries = write_vectors(scratch, repeated(artifact, manifest, count))
    file = scratch / "vectors.safetensors"
    loop = bare(artifact, file, count)
    judged = whole(artifact, manifest, file, entries)
    took: dict[str, list[float]] = {"loop": [], "verify": []}
    for _ in range(rounds):
        for what, run in (("loop", loop), ("verify", judged)):
            started = time.perf_counter()
            run()
            took[what].append(time.perf_counter() - started)
    one, other = (statistics.median(seconds) for seconds in took.values())
    ratio, each = other / one, one / count
    bound = "" if each >= SHORTEST else f", a run is under {SHORTEST * 1e3:g} ms: no limit"
    print(
        f"{name:<20}{count:5} samples  loop {one:.3f} s  verify {other:.3f} s  "
        f"ratio {ratio:.2f}, {(other - one) / count * 1e6:.0f} us more a sample{bound}"
    )
    return ratio > LIMIT and each >= SHORTEST


def built(name: str, scratch: Path) -> Path:
    """The artifact's directory."""
    command = [sys.executable, "-m", "crosscast.pipeline.cli", "build", CONFIGS / f"{name}.yaml"]
    subprocess.run(
        [*command, "--target", TARGET, "--out", scratch / name],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return next((scratch / name).glob(f"*/*/{TARGET}"))


def repeated(artifact: Path, manifest: dict, count: int) -> Iterator[Vector]:
    """The artifact's real vectors, again and again."""
    stored = read_vectors(artifact / "vectors.safetensors", manifest["vectors"]["cases"])
    real = [vector for vector in stored if vector.case.origin == "real"]
    for index, vector in enumerate(islice(cycle(real), count)):
        yield replace(vector, case=replace(vector.case, name=f"real {index}"))


def bare(artifact: Path, file: Path, count: int) -> Callable[[], object]:
    """The loop that anyone would write."""

    def run() -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            artifact / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        with open_tensors(file) as tensors:
            for index in range(count):
                session.run(None, {name: tensors[f"{index}/in/{name}"] for name in names})

    return run


def whole(artifact: Path, manifest: dict, file: Path, entries: list) -> Callable[[], object]:
    """The stage's work, from the files to the verdict."""
    target = TARGETS[TARGET]
    options = {
        **runtime_options(target),
        "precision_asked": target.precision_asked,
        "layout": None,
        "io": None,
        "pixels": [],
        "labels": [],
        "parity": {},
    }

    def run() -> None:
        verdict = verify(
            artifact=artifact,
            signature=Signature.from_json(manifest),
            vectors=lambda: read_vectors(file, entries),
            options=options,
        )
        if verdict.status != "passed":
            sys.exit(f"{artifact}: {verdict.reason}")

    return run


if __name__ == "__main__":
    main()
