"""Full static int8 that fails, and what `on_mismatch: keep-float` makes of it, as a table.

Each model is built twice with every operator in int8: as it is, which the gate judges, and
repaired. A real convolutional network, a real transformer, and one with random weights. Writes
benchmarks/results/repair.md. Ends with an error where an artifact that was repaired did not pass.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
TARGET = "onnx-int8"


class Subject(NamedTuple):
    """A model, by its config, and how it is quantized."""

    name: str
    config: dict[str, Any]
    quantize: dict[str, Any]


class Built(NamedTuple):
    """What came of a build. seconds: of quantization. snr_db: of the worst case that counts.
    manifest: of what was delivered, empty where nothing was.
    """

    code: int
    snr_db: float
    seconds: float
    manifest: dict[str, Any]


VIT = {
    "version": "1.0.0",
    "source": {"torch": f"{HERE / 'architectures.py'}:vit"},
    "inputs": {
        "pixel_values": {"shape": ["batch", 3, 64, 64], "dtype": "float32", "range": [0, 1]}
    },
    "samples": {"calibration": "synthetic"},
}


def subjects() -> list[Subject]:
    """What is shown."""
    lite0 = yaml.safe_load((CONFIGS / "efficientnet-lite0.yaml").read_text())
    minilm = yaml.safe_load((CONFIGS / "minilm.yaml").read_text())
    every = {"operators": "all"}
    return [
        Subject("EfficientNet-Lite0", lite0, every),
        Subject("EfficientNet-Lite0, a scale a tensor", lite0, every | {"per_channel": False}),
        Subject("MiniLM", minilm, every),
        Subject("ViT, random weights", VIT, every),
    ]


def main() -> None:
    """Build all, and write the table."""
    rows, failed = [], []
    for subject in subjects():
        plain, repaired = built(subject, "fail"), built(subject, "keep-float")
        rows.append(row(subject.name, plain, repaired))
        print(rows[-1], flush=True)
        if repaired.code:
            failed.append(subject.name)
    (HERE / "results/repair.md").write_text(markdown(rows))
    sys.exit(f"not repaired: {', '.join(failed)}" if failed else 0)


def built(subject: Subject, on_mismatch: str) -> Built:
    """One build, from nothing."""
    targets = {TARGET: {"quantize": subject.quantize, "on_mismatch": on_mismatch}}
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "zoo").symlink_to(CONFIGS / "zoo")
        config = subject.config | {"model": "subject", "targets": targets}
        (place / "subject.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "crosscast.pipeline.cli", "build", place / "subject.yaml"),
                *("--json", "--force", "--out", place / "out"),
            ],
            capture_output=True,
            text=True,
        )
        events = [json.loads(line) for line in done.stdout.splitlines()]
        found = list(place.glob(f"out/subject/*/{TARGET}/manifest.json"))
        manifest = json.loads(found[0].read_text()) if found else {}
    return Built(done.returncode, worst(events, manifest), seconds(events), manifest)


def seconds(events: list[dict[str, Any]]) -> float:
    """How long quantization took."""
    done = (event for event in events if event["event"] == "step_finished")
    return next(event["seconds"] for event in done if event["step"] == f"quantize {TARGET}")


def worst(events: list[dict[str, Any]], manifest: dict[str, Any]) -> float:
    """The least SNR that the gate counted: in the manifest, or in the reason of a failure."""
    if manifest:
        rows = manifest["verdict"]["worst"].values()
        return min(row["numbers"]["snr_db"] for row in rows)
    reason = next(e["reason"] for e in events if e["event"] == "target_finished")
    return float(re.search(r"snr_db is (-?[\d.]+)", reason)[1])


def row(name: str, plain: Built, repaired: Built) -> str:
    """A line of the table."""
    kept = repaired.manifest["precision"].get("kept_in_float", {}) if repaired.manifest else {}
    total = re.search(r"of (\d+) operators", repaired.manifest.get("said", "")) if kept else None
    sizes = kept.get("bytes", {})
    weights = f", {len(kept['weights'])} weights" if kept.get("weights") else ""
    operators = f"{len(kept['operators'])} of {total[1]}{weights}" if total else "none"
    cells = (
        name,
        f"exit {plain.code}, {plain.snr_db:.1f} dB",
        f"exit {repaired.code}, {repaired.snr_db:.1f} dB",
        operators,
        *(f"{sizes[form] / 1e6:.2f}" if sizes else "" for form in ("float", "int8", "delivered")),
        str(kept.get("trials", 1)),
        f"{repaired.seconds:.0f} s",
    )
    return f"| {' | '.join(cells)} |"


def markdown(rows: list[str]) -> str:
    """The page."""
    head = (
        *("model", "`fail`", "`keep-float`", "kept in float", "MB in float", "MB all in int8"),
        *("MB delivered", "models tried", "quantized in"),
    )
    return "\n".join(
        [
            "# Repair\n",
            "Every operator in int8 (`onnx-int8: {quantize: {operators: all}}`), with `on_mismatch:"
            " fail` and `keep-float`: the exit code and the worst SNR of the cases that count, the"
            " limit is 17 dB. Made by `benchmarks/repair.py`.\n",
            f"| {' | '.join(head)} |",
            "|" + "---|" * len(head),
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
