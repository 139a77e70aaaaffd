"""What the commands that build nothing cost, against a bare import of typer, yaml and pydantic.

Prints the median wall time of each as a ratio, in the same run. The no-op build needs the example
built before (`make demo`).
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "efficientnet-lite0.yaml")
# One model, since pydantic imports itself only when it is used.
BARE = [sys.executable, "-c", "import typer, yaml, pydantic; pydantic.create_model('M', a=int)"]
CROSSCAST = [sys.executable, "-m", "crosscast.pipeline.cli"]
ROUNDS = 9


def main() -> None:
    """Measure all commands in turn, several rounds."""
    commands = {
        "bare imports": BARE,
        "--help": [*CROSSCAST, "--help"],
        "check": [*CROSSCAST, "check", CONFIG],
        "plan": [*CROSSCAST, "plan", CONFIG],
        "no-op build": [*CROSSCAST, "build", CONFIG],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            took[name].append(time.perf_counter() - started)
    base = statistics.median(took["bare imports"])
    for name, seconds in took.items():
        median = statistics.median(seconds)
        print(f"{name:<14}{median * 1000:6.0f} ms  ratio {median / base:.2f}")


if __name__ == "__main__":
    main()
